//! The drives of the fuzzers, over the inputs that were worth keeping and over seeded changes of
//! them: what a fuzzer has once found stays found, and the drives stay true to the code.

#[path = "../fuzz/drives/mod.rs"]
mod drives;

use std::fs;
use std::path::Path;

use lunboot::proto::random::Random;

/// Seeded inputs for each drive.
const ROUNDS: u64 = 200;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file that is readable")).collect()
}

#[test]
fn every_drive_bears_its_corpus_and_changes_of_it() {
    for (name, drive) in drives::DRIVES {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "fuzz/corpus/{name} is empty");
        for input in &corpus {
            drive(input);
        }
        for seed in 0..ROUNDS {
            let mut random = Random::new(seed);
            let mut input = corpus[random.below(corpus.len() as u64) as usize].clone();
            for _ in 0..=random.below(8) {
                let at = random.below(input.len() as u64 + 1) as usize;
                match random.below(3) {
                    0 => input.truncate(at.max(1)),
                    1 => input.insert(at, random.bits() as u8),
                    _ if at < input.len() => input[at] ^= 1 << random.below(8),
                    _ => input.push(random.bits() as u8),
                }
            }
            drive(&input);
        }
    }
}
