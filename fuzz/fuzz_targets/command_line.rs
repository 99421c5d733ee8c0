//! The fuzzer of the drive `command_line`.

#![no_main]

#[path = "../drives/mod.rs"]
mod drives;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drives::command_line(bytes));
