//! debug
use counterfoil_faults::{FaultVfs, Player, Step, small_options};
#[test]
fn b() {
    let mut player = Player::new(FaultVfs::new(1), small_options());
    println!("{:?}", player.open());
    for s in [
        Step::CreateLog,
        Step::CreateForeignLog,
        Step::Append(0, 32900),
        Step::Store(0, 1),
        Step::Kill,
        Step::Kill,
        Step::Store(0, 1),
        Step::Kill,
        Step::Free,
        Step::Judge,
        Step::CreateLog,
        Step::Fill(12288),
        Step::Kill,
        Step::CreateLog,
        Step::Free,
        Step::CreateLog,
        Step::Free,
        Step::Commit,
    ] {
        let r = player.step(&s);
        println!(
            "{s:?} {r:?} errors {} freed {} logs {:?}",
            player.errors,
            player.freed_segments,
            player.journal.as_ref().map(|j| j.logs(None).iter().map(|l| l.id).collect::<Vec<_>>())
        );
    }
    let disk = player.disk.crash(2);
    println!("{:?}", player.prove_sound(disk));
    panic!();
}
