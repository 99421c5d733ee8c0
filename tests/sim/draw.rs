//! What a seed decides before anything happens: the settings of both sides and of the network.

use std::time::Duration;

use lunboot::proto::Patience;
use lunboot::proto::params::{DigestChoice, Offer};
use lunboot::proto::random::Random;
use lunboot::proto::session::{Limits, Retry};

use super::common::Settings;
use super::common::network::Weather;

/// One in how many, never more often than `least`; 0 in half of all runs.
pub(crate) fn rate(random: &mut Random, least: u64) -> u64 {
    if random.below(2) == 0 { 0 } else { least + random.below(least * 4) }
}

fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
    from[random.below(from.len() as u64) as usize]
}

fn offer(random: &mut Random, header: DigestChoice, data: DigestChoice) -> Offer {
    let max_burst_bytes = pick(random, &[512, 4096, 20_000, 65_536, 262_144]);
    Offer {
        header_digest: header,
        data_digest: data,
        max_recv_bytes: pick(random, &[512, 1000, 4096, 8192, 65_536, 262_144]),
        max_burst_bytes,
        first_burst_bytes: pick(random, &[512, 1024, 8192, 65_536]).min(max_burst_bytes),
        initial_r2t: random.below(2) == 0,
        immediate_data: random.below(2) == 0,
        max_outstanding_r2t: pick(random, &[1, 2, 8, 1000]),
        default_time2wait: pick(random, &[0, 0, 0, 2]),
        default_time2retain: 0,
    }
}

pub(crate) fn settings(random: &mut Random) -> Settings {
    let header = pick(random, &[DigestChoice::Never, DigestChoice::Always]);
    let data = pick(random, &[DigestChoice::Never, DigestChoice::Always]);
    let delay_max = Duration::from_millis(pick(random, &[0, 0, 1, 200]));
    let window_bytes = pick(random, &[1000, 30_000, 1 << 20]);
    let crawls = window_bytes == 1000 && delay_max > Duration::from_millis(1);
    let seconds = |random: &mut Random, most| Duration::from_secs(1 + random.below(most));
    Settings {
        seed: random.bits(),
        initiator: offer(random, header, data),
        target: offer(random, header, data),
        disk_bytes: 4096 * (1 + random.below(32)),
        block_bytes: pick(random, &[512, 4096]),
        read_only: false,
        requests_max: pick(random, &[1, 4, 16]),
        transfer_bytes_max: pick(random, &[4096, 8192, 65_536, 262_144]),
        unflushed_bytes_max: pick(random, &[0, 16_384, 65_536, 1 << 20]),
        patience: Patience {
            login: seconds(random, 30),
            idle: seconds(random, 5),
            ping: seconds(random, 5),
            // Often less than the target needs. A line on which an answer stands behind minutes of
            // data needs more than that.
            command: seconds(random, 30) * if crawls { 10 } else { 1 },
            management: seconds(random, 10) * if crawls { 100 } else { 1 },
            ..Patience::default()
        },
        limits: Limits::default(),
        retry: Retry { first: Duration::from_millis(1 + random.below(1000)), ..Retry::default() },
        ping_interval: seconds(random, 30),
        secrets: None,
        chap: None,
        weather: Weather {
            split_bytes_max: pick(random, &[0, 20, 100, 3000, 10_000]),
            delay_max,
            window_bytes,
            shuffle: random.below(2) == 0,
            execution_max: Duration::from_millis(pick(random, &[0, 0, 10, 3000])),
        },
    }
}
