//! ublk in a real kernel.

mod kernel;

use kernel::{Served, geometry, inside};
use lunboot::block::{Driver, Preference};

const DRIVER: Preference = Preference::Ublk;

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
fn a_medium_error_is_told_as_such() {
    const ENODATA: i32 = 61;
    inside("a_medium_error_is_told_as_such", || {
        assert_eq!(kernel::an_error_reaches_the_reader(DRIVER), Some(ENODATA));
    });
}

#[test]
fn ublk_is_the_first_choice() {
    inside("ublk_is_the_first_choice", || {
        let served = Served::new(Preference::Auto, &geometry(512), 64);
        assert_eq!(served.choice.driver, Driver::Ublk);
        assert!(served.choice.reason.is_none());
        assert_eq!(served.sysfs("queue/physical_block_size"), "4096");
        served.stop();
    });
}
