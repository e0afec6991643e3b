//! Opening the store that a command works on.

use std::path::Path;

use counterfoil::{Builder, LogId, LogInfo, Seq, Space, Store};
use counterfoil_storage::Finding;

use crate::failure::Failure;

/// Opens for writing, as the only process that does; what recovery found is logged.
pub(crate) fn open_to_write(path: &Path) -> Result<Store, Failure> {
    open_with(Store::builder(), path)
}

/// The same with options.
pub(crate) fn open_with(builder: Builder, path: &Path) -> Result<Store, Failure> {
    let store = builder.open(path)?;
    for finding in &store.recovery().findings {
        // Damage has been logged by the store itself.
        if !matches!(finding, Finding::Damage(_)) {
            tracing::warn!("{finding}");
        }
    }
    Ok(store)
}

/// Opens beside a process that may be writing; changes nothing.
pub(crate) fn open_to_read(path: &Path) -> Result<Store, Failure> {
    Ok(Store::open_read_only(path)?)
}

/// The space asked for: the node's own unless named.
pub(crate) fn space_of(store: &Store, name: Option<&str>) -> Result<Space, Failure> {
    Ok(match name {
        Some(name) => store.space(name)?,
        None => store.own_space()?,
    })
}

/// The space asked for, which must have a log here: a name that nothing bears is most likely a slip. Only a store that
/// holds nothing at all may lack the node's own.
pub(crate) fn space_there(store: &Store, path: &Path, name: Option<&str>) -> Result<Space, Failure> {
    let space = space_of(store, name)?;
    let names: Vec<String> = store.spaces().iter().map(|space| space.name().to_string()).collect();
    let is_there = names.iter().any(|name| name == space.name().as_str());
    if is_there || (names.is_empty() && name.is_none()) {
        return Ok(space);
    }
    let shown = names.iter().take(SPACES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let it_has = match names.len() {
        0 => "it has none yet".to_owned(),
        count if count > SPACES_SHOWN => format!("it has: {shown} and {} more", count - SPACES_SHOWN),
        _ => format!("it has: {shown}"),
    };
    Err(Failure::Usage(format!("no space {} in {}; {it_has}", space.name(), path.display())))
}

/// How many spaces one line names.
const SPACES_SHOWN: usize = 10;

/// What was lost of the ends of some logs and is not among the holes told (log, first record, after the last), in words:
/// without it such a log would look as if it ended before that.
pub(crate) fn lost_end(store: &Store, logs: &[LogId], holes: &[(LogId, Seq, Seq)]) -> Option<String> {
    let is_hole = |log: LogId, first: Seq, last: Seq| {
        holes.iter().any(|(of, first_seq, next_seq)| *of == log && *first_seq <= first && last < *next_seq)
    };
    let damage = store.recovery().damage().find(|damage| match (damage.log, damage.first_seq, damage.last_seq) {
        (Some(log), Some(first), Some(last)) => logs.contains(&log) && !is_hole(log, first, last),
        (Some(log), ..) => logs.contains(&log),
        // It may be what the holes tell of already.
        (None, ..) => holes.is_empty(),
    });
    let known = || {
        let infos = store.logs().into_iter().filter(|info| logs.contains(&info.id));
        infos.into_iter().find_map(|info| {
            let (_, next_seq) = info.holes.iter().last()?;
            let (log, first_seq) = (info.id, info.durable.next_seq);
            let last = Seq(next_seq.0.checked_sub(1)?);
            let is_told = next_seq <= first_seq || is_hole(log, first_seq, last);
            (!is_told).then(|| format!("records {first_seq} to {last} of log {log} were its end once, and are lost"))
        })
    };
    damage.map(ToString::to_string).or_else(known)
}

/// A space's logs in an order that is the same at every node: a log after the one that it continues,
/// else by id.
pub(crate) fn in_order(mut logs: Vec<LogInfo>) -> Vec<LogInfo> {
    logs.sort_by_key(|info| info.id);
    let mut ordered: Vec<LogInfo> = Vec::with_capacity(logs.len());
    while !logs.is_empty() {
        let is_waiting = |info: &LogInfo| {
            let parent = info.genesis.parent.as_ref().map(|parent| parent.log);
            logs.iter().any(|other| Some(other.id) == parent)
        };
        // Parents are named by hashes, so there is no cycle.
        let index = logs.iter().position(|info| !is_waiting(info)).unwrap_or(0);
        ordered.push(logs.remove(index));
    }
    ordered
}
