//! Our initiator at LIO with CHAP, one-way and mutual: in the kernels of Debian, which have both.

use crate::lab::{Machine, Scratch, TARGET_NAME, Target, lab, recipe};
use crate::{USER_NETWORK_HOST, root_path};

#[test]
#[ignore = "boots a virtual machine"]
fn lio_serves_us_with_chap() {
    let scratch = Scratch::new("lio");
    let disk = scratch.disk();
    scratch.put(&lab().agent(), "/usr/local/bin/lunboot");
    scratch.put(&recipe("lio"), "/usr/local/bin/lio");
    let mut target = Target::new(&scratch, None, disk);
    target.start(TARGET_NAME);
    let path = root_path(USER_NETWORK_HOST, target.port, TARGET_NAME);
    let words =
        format!("lunboot={path} ip=dhcp root=LABEL=lunboot-root rw init=/usr/local/bin/lio");
    let kernel = &lab().new_kernel;
    let machine = Machine::boot(&scratch, None, kernel, &lab().image(kernel), &words);
    let (machine, _) = machine.finish();
    // SHA3-256, the best that both know, and after a wrong secret MD5 alone.
    assert_eq!(machine.fact("lio", "algorithms").trim(), "5 8");
    let none = machine.fact("lio", "none");
    assert!(none.contains("it may demand CHAP, for which there is no secret"), "{none}");
    target.stop();
}
