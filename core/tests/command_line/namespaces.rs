//! Two real processes in network namespaces of their own, with a real wire between them that can be pulled.
//!
//! Needs the right to make namespaces, which root has on most machines; without it the test says that it is skipped.

use std::process::{Command, Output};

use crate::sandbox::{Sandbox, eventually};

/// Two namespaces joined by a wire; gone when dropped.
struct Wire {
    ends: [String; 2],
}

const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

fn ip(words: &str) -> Result<(), String> {
    let Output { status, stderr, .. } =
        Command::new("ip").args(words.split_whitespace()).output().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("ip {words}: {}", String::from_utf8_lossy(&stderr).trim())) }
}

impl Wire {
    fn new() -> Result<Self, String> {
        let ends = [0, 1].map(|side| format!("counterfoil-{}-{side}", std::process::id()));
        let wire = Self { ends };
        for end in &wire.ends {
            ip(&format!("netns add {end}"))?;
        }
        let [a, b] = &wire.ends;
        ip(&format!("-n {a} link add wire type veth peer name wire netns {b}"))?;
        for (end, address) in wire.ends.iter().zip(ADDRESSES) {
            ip(&format!("-n {end} addr add {address}/24 dev wire"))?;
            ip(&format!("-n {end} link set wire up"))?;
            ip(&format!("-n {end} link set lo up"))?;
        }
        Ok(wire)
    }

    /// Neither end's kernel is told anything: what is sent is lost.
    fn pull(&self) {
        ip(&format!("-n {} link set wire down", self.ends[1])).unwrap();
    }

    fn plug_in(&self) {
        ip(&format!("-n {} link set wire up", self.ends[1])).unwrap();
    }

    /// Has what one end sends lost, doubled, late, out of order and changed now and then; whether the kernel can do that.
    fn disturb(&self, side: usize) -> Result<(), String> {
        let how = "delay 5ms 3ms loss 2% duplicate 2% reorder 20% corrupt 0.5%";
        let words = format!("netns exec {} tc qdisc add dev wire root netem {how}", self.ends[side]);
        ip(&words)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for end in &self.ends {
            // It may not be there.
            let _ = ip(&format!("netns del {end}"));
        }
    }
}

#[test]
fn a_wire_that_is_pulled_and_one_that_loses_doubles_reorders_and_changes_packets_cost_no_record() {
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(why) => {
            println!("SKIPPED: no network namespaces here: {why}");
            return;
        }
    };
    let sandbox = Sandbox::with_practice_and_hub();
    let [near, far] = &wire.ends;
    let serve = format!("serve hub.store --listen {}:7400 --tls tls-hub", ADDRESSES[1]);
    let mut hub = sandbox.start_in(Some(far), &serve);
    assert_eq!(hub.read_line(), format!("listening on {}:7400", ADDRESSES[1]), "{}", hub.errors());
    let to = format!("--mirror-to hub@{}:7400 --tls tls-practice-1 --timeout 300", ADDRESSES[1]);
    let mut append = sandbox.start_in(Some(near), &format!("append practice.store --ack --durability mirrored {to}"));
    let mut seq = 0;
    let mut expect_acks = |append: &mut crate::sandbox::Running, count: u64| {
        for _ in 0..count {
            assert_eq!(append.read_line(), format!("ack {seq}"));
            seq += 1;
        }
    };
    append.write("plugged in\n");
    expect_acks(&mut append, 1);

    wire.pull();
    append.write("pulled\n");
    append.wait_for_error("no link");
    append.write("still pulled\n");
    let is_local = || (sandbox.status("practice.store")["logs"][0]["next_seq"] == 3).then_some(());
    eventually(is_local).expect("the writer goes on");
    wire.plug_in();
    expect_acks(&mut append, 2);

    let disturbed = [0, 1].into_iter().try_for_each(|side| wire.disturb(side));
    if let Err(why) = &disturbed {
        println!("SKIPPED: the kernel does not disturb packets here: {why}");
    }
    let batch = "disturbed\n".repeat(50);
    for _ in 0..10 {
        append.write(&batch);
        expect_acks(&mut append, 50);
    }
    append.finish().expect_status(0);
    hub.signal("TERM");
    hub.finish().expect_status(0);
    assert_eq!(sandbox.head("hub.store", "practice-1"), sandbox.head("practice.store", "practice-1"));
    assert_eq!(sandbox.cat("hub.store --space practice-1"), sandbox.cat("practice.store"));
    println!("a wire between two namespaces: 503 records, pulled once, disturbed: {}", disturbed.is_ok());
}
