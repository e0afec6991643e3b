//! What goes wrong, and how it is mended.

use std::time::Duration;

use counterfoil_faults::{Fault, Injection, Operation};

use super::{Happening, Outcome, World};
use crate::machine::Machine;

impl World {
    /// Draws what goes wrong in this second.
    pub(super) fn misfortune(&mut self) -> Outcome {
        if self.healed {
            return Ok(());
        }
        self.plan_in(Duration::from_secs(1), Happening::Misfortune);
        let plan = self.plan.clone();
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for connection in open {
            let flaps = self.flapping.is_some_and(|link| self.connected.get(&link) == Some(&connection));
            if self.rng.chance(plan.cuts, 1000) || (flaps && self.rng.chance(1, 2)) {
                self.cut(connection);
            } else if self.rng.chance(plan.stalls, 1000) {
                self.stall(connection);
            } else if self.rng.chance(plan.silences, 1000) {
                self.silence(connection);
            } else if self.rng.chance(plan.corruptions, 1000) {
                // TLS finds the first changed byte: that end gives up, the other hears of it.
                let side = self.rng.below(2) as usize;
                self.report.cuts += 1;
                self.close(connection, side);
            }
        }
        for index in 0..self.machines.len() {
            if self.machines[index].journal.is_none() {
                continue;
            }
            if self.rng.chance(plan.kills, 1000) {
                self.stop(index, true);
            } else if self.rng.chance(plan.crashes, 1000) {
                self.stop(index, false);
            } else if self.rng.chance(plan.disk_errors, 1000) {
                let disk = &self.machines[index].disk;
                let number = self.rng.below(20);
                disk.inject_ahead(Injection::at(number, Fault::Eio).of(Operation::SyncData));
                self.report.disk_faults += 1;
            } else if self.rng.chance(plan.full_disks, 1000) {
                let disk = &self.machines[index].disk;
                disk.set_capacity(Some(disk.used_bytes() + self.rng.below(20_000)));
                self.report.disk_faults += 1;
                let delay = self.below(Duration::from_secs(10));
                self.plan_in(delay, Happening::FreeDisk { machine: index });
            }
        }
        self.deny_something()
    }

    /// A connection breaks: what is under way is lost, whole or in the middle of a message.
    fn cut(&mut self, connection: u64) {
        self.report.cuts += 1;
        let hears = (self.rng.chance(4, 5), self.rng.chance(4, 5));
        self.trace(6, u64::from(hears.0) + 2 * u64::from(hears.1));
        let Some(state) = self.connections.get_mut(&connection) else { return };
        state.is_cut = true;
        // An end that does not hear of it has a half-open connection.
        for (side, hears) in [(0, hears.0), (1, hears.1)] {
            if hears {
                self.plan_in(Duration::ZERO, Happening::Gone { connection, side });
            }
        }
    }

    /// One or both directions swallow everything.
    fn silence(&mut self, connection: u64) {
        self.report.cuts += 1;
        let which = 1 + self.rng.below(3);
        let Some(state) = self.connections.get_mut(&connection) else { return };
        for (side, end) in state.ends.iter_mut().enumerate() {
            end.silenced |= which & (1 << side) != 0;
        }
    }

    /// A process dies (`is_kill`) or its machine loses power. It comes back after a while.
    pub(super) fn stop(&mut self, index: usize, is_kill: bool) {
        self.report.crashes += 1;
        self.trace(7, index as u64);
        self.lives[index] += 1;
        let dying: Vec<(u64, usize)> = self.connections.keys().flat_map(|id| [(*id, 0), (*id, 1)]).collect();
        for (connection, side) in dying {
            let on_it = self.connections.get(&connection).is_some_and(|state| state.ends[side].machine == index);
            if on_it {
                // A killed process's kernel says goodbye, a dead machine does not.
                if let Some(state) = self.connections.get_mut(&connection).filter(|_| !is_kill) {
                    state.ends[side].silenced = true;
                }
                self.close(connection, side);
            }
        }
        let seed = self.rng.next_u64();
        let machine = &mut self.machines[index];
        machine.stop();
        machine.disk = if is_kill { machine.disk.kill() } else { machine.disk.crash(seed) };
        if let Some(older) = self.older.remove(&index).filter(|_| is_kill) {
            machine.disk = older;
        }
        // After healing, too: a flush that failed just before may be noticed only then.
        let delay = if self.healed { Duration::ZERO } else { self.below(Duration::from_secs(5)) };
        self.plan_in(delay, Happening::Start { machine: index });
    }

    pub(super) fn start(&mut self, index: usize) -> Outcome {
        if self.machines[index].journal.is_some() {
            return Ok(());
        }
        self.trace(8, index as u64);
        // An administrator makes room first: a journal needs some to recover.
        self.machines[index].disk.set_capacity(None);
        self.machines[index].start(&mut self.chains)?;
        self.settle(index)
    }

    pub(super) fn restart_after(&mut self, index: usize, change: impl FnOnce(&mut Machine)) -> Outcome {
        self.connections.clear();
        self.connected.clear();
        self.machines[index].stop();
        change(&mut self.machines[index]);
        self.machines[index].start(&mut self.chains)
    }

    /// No faults from here on. What is silent stays so: the ends have to notice.
    pub(super) fn heal(&mut self) -> Outcome {
        self.healed = true;
        self.plan.latency = Duration::from_millis(1);
        self.plan.flush = Duration::from_millis(1);
        for connection in self.connections.values_mut() {
            connection.latency = connection.latency.min(self.plan.latency);
        }
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for (connection, side) in open.into_iter().flat_map(|id| [(id, 0), (id, 1)]) {
            self.resume(connection, side)?;
        }
        for index in 0..self.links.len() {
            if self.links[index].denial.is_some() {
                self.change_rights(index, None)?;
            }
        }
        for index in 0..self.machines.len() {
            self.machines[index].disk.mend();
            self.machines[index].disk.set_capacity(None);
            self.start(index)?;
        }
        Ok(())
    }
}
