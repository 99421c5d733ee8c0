//! NBD in a real kernel.
//!
//! The tests themselves are those of `kernel`, which ublk has to pass as well.

mod kernel;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use kernel::{Aligned, DISK_BYTES, O_DIRECT, Random, Served, geometry, inside};
use lunboot::block::{Driver, Preference};
use lunboot::proto::disk::{Geometry, Op};

const DRIVER: Preference = Preference::Nbd;

#[test]
fn written_data_reads_back_with_blocks_of_512() {
    inside("written_data_reads_back_with_blocks_of_512", || {
        kernel::written_data_reads_back(DRIVER, 512, 64);
    });
}

#[test]
fn written_data_reads_back_with_blocks_of_4096() {
    inside("written_data_reads_back_with_blocks_of_4096", || {
        kernel::written_data_reads_back(DRIVER, 4096, 64);
    });
}

#[test]
fn written_data_reads_back_with_few_tags() {
    inside("written_data_reads_back_with_few_tags", || {
        kernel::written_data_reads_back(DRIVER, 512, 2);
    });
}

#[test]
fn flush_and_fua_arrive() {
    inside("flush_and_fua_arrive", || kernel::flush_and_fua_arrive(DRIVER));
}

#[test]
fn discard_and_zeroes_arrive() {
    inside("discard_and_zeroes_arrive", || kernel::discard_and_zeroes_arrive(DRIVER));
}

#[test]
fn what_the_unit_lacks_is_not_offered() {
    inside("what_the_unit_lacks_is_not_offered", || {
        kernel::what_the_unit_lacks_is_not_offered(DRIVER);
    });
}

#[test]
fn read_only_is_kept() {
    inside("read_only_is_kept", || kernel::read_only_is_kept(DRIVER));
}

#[test]
fn shape_is_that_of_the_unit() {
    inside("shape_is_that_of_the_unit", || {
        kernel::shape_is_that_of_the_unit(DRIVER, 512);
        kernel::shape_is_that_of_the_unit(DRIVER, 4096);
    });
}

#[test]
fn partitions_are_found() {
    inside("partitions_are_found", || kernel::partitions_are_found(DRIVER));
}

#[test]
fn stop_writes_back() {
    inside("stop_writes_back", || kernel::stop_writes_back(DRIVER));
}

#[test]
fn devices_come_and_go() {
    inside("devices_come_and_go", || kernel::devices_come_and_go(DRIVER));
}

#[test]
fn an_error_reaches_the_reader() {
    // The driver knows one error only.
    const EIO: i32 = 5;
    inside("an_error_reaches_the_reader", || {
        assert_eq!(kernel::an_error_reaches_the_reader(DRIVER), Some(EIO));
    });
}

/// An administrator may raise the limit beyond our buffers: served in pieces.
#[test]
fn longer_requests_than_the_buffers_are_served() {
    inside("longer_requests_than_the_buffers_are_served", || {
        let small = Geometry { transfer_bytes_max: 20 << 10, ..geometry(512) };
        let served = Served::new(DRIVER, &small, 4);
        assert_eq!(served.sysfs("queue/max_sectors_kb"), "20");
        fs::write("/sys/block/nbd0/queue/max_sectors_kb", "1024").unwrap();
        let file = served.open(O_DIRECT).unwrap();
        let mut random = Random(11);
        let mut written = Aligned::new(1 << 20);
        let mut read = Aligned::new(1 << 20);
        for turn in 0..8 {
            random.fill(written.get());
            let at = turn * (3 << 20) + 512;
            file.write_all_at(written.get(), at).unwrap();
            file.read_exact_at(read.get(), at).unwrap();
            assert!(read.get() == written.get(), "turn {turn}");
        }
        let pieces = served.asked(|op| matches!(op, Op::Write { .. }));
        assert!(pieces.iter().any(|&(_, _, sectors)| sectors == 40), "{pieces:?}");
        // An error in the middle fails the whole.
        served.disk.lock().unwrap().bad_sector = Some(1_000);
        assert!(file.read_exact_at(read.get(), 0).is_err());
        served.disk.lock().unwrap().bad_sector = None;
        file.read_exact_at(read.get(), u64::from(DISK_BYTES) - (1 << 20)).unwrap();
        drop(file);
        served.stop();
    });
}

/// Without ublk it is NBD, and the reason names the missing thing.
#[test]
fn nbd_is_the_fallback() {
    inside("nbd_is_the_fallback", || {
        // The guest's own /dev; a kernel without ublk does not have it anyway.
        if let Err(error) = fs::remove_file("/dev/ublk-control") {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
        }
        let served = Served::new(Preference::Auto, &geometry(512), 64);
        assert_eq!(served.choice.driver, Driver::Nbd);
        let reason = served.choice.reason.as_ref().unwrap().to_string();
        assert!(reason.contains("/dev/ublk-control") && reason.contains("ublk_drv"), "{reason}");
        served.stop();

        // Something that is there but does not do what ublk does.
        fs::write("/dev/ublk-control", "").unwrap();
        let served = Served::new(Preference::Auto, &geometry(512), 64);
        assert_eq!(served.choice.driver, Driver::Nbd);
        let reason = served.choice.reason.as_ref().unwrap().to_string();
        assert!(reason.contains("ublk: ADD_DEV"), "{reason}");
        served.stop();
    });
}

/// The number of a disk that could do more: some kernels go on sending what that one could do.
#[test]
fn a_lesser_disk_after_a_better_one_is_served() {
    inside("a_lesser_disk_after_a_better_one_is_served", || {
        Served::new(DRIVER, &geometry(512), 16).stop();
        let lesser = Geometry { unmap: None, write_zeroes_bytes_max: 0, ..geometry(512) };
        let served = Served::new(DRIVER, &lesser, 16);
        served.disk.lock().unwrap().bytes.fill(0xff);
        let status = Command::new("blkdiscard")
            .args(["--zeroout", "--offset", "1M", "--length", "3M"])
            .arg(&served.path)
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
        let bytes = served.stop();
        let (mib, is_kept) = (1 << 20, |byte: &u8| *byte == 0xff);
        assert!(bytes[mib..4 * mib].iter().all(|&byte| byte == 0));
        assert!(bytes[..mib].iter().chain(&bytes[4 * mib..]).all(is_kept));
    });
}
