//! `counterfoil put`, `get`, `delete`, `keys`, `conflicts`, `resolve`, `history`: values under keys.

use std::{
    io::{self, Read as _},
    path::PathBuf,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use clap::Args;
use counterfoil::{Collection, Durability, MAX_VALUE_LEN, Receipt, Store, Version, VersionId, Versions};
use serde::Serialize;

use crate::{
    failure::{Answer, Failure},
    open::{open_to_read, open_to_write, space_of, space_there},
    output::{Output, count},
    when,
};

/// Keys are bytes, and so are values: nothing is made of what the user gives.
pub(crate) type BytesCollection = Collection<Vec<u8>, Bytes>;

/// Which collection of which store.
#[derive(Debug, Args)]
struct Place {
    /// Folder of the store
    store: PathBuf,
    /// Space that the collection is in; the node's own name unless given
    #[arg(long, value_name = "S")]
    space: Option<String>,
    /// The collection
    #[arg(long, value_name = "C")]
    collection: String,
}

impl Place {
    /// Beside a process that may be writing. Without the index, which that process has: all of the space is read.
    fn open_to_read(&self) -> Result<BytesCollection, Failure> {
        let store = open_to_read(&self.store)?;
        let space = space_there(&store, &self.store, self.space.as_deref())?;
        Ok(space.collection_of_bytes(&self.collection)?)
    }

    /// As the only process that writes.
    fn open_to_write(&self) -> Result<(Store, BytesCollection), Failure> {
        let store = open_to_write(&self.store)?;
        let collection = space_of(&store, self.space.as_deref())?.collection_of_bytes(&self.collection)?;
        Ok((store, collection))
    }
}

/// Waits until a write is durable, says which version it made, and closes the store.
fn finish(store: &Store, receipt: &Receipt) -> Result<Answer, Failure> {
    receipt.wait(Durability::Local)?;
    store.close(Duration::ZERO)?;
    let mut output = Output::new();
    output.line(VersionId { log: receipt.log(), seq: receipt.first_seq() }.to_string())?;
    output.flush()?;
    Ok(Answer::Done)
}

/// Standard input to its end; one LF there does not count.
fn value_from_input() -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    let limit = MAX_VALUE_LEN as u64 + 2;
    io::stdin().lock().take(limit).read_to_end(&mut value).map_err(Failure::Input)?;
    value.pop_if(|last| *last == b'\n');
    Ok(value.into())
}

/// Put a value, from standard input, under a key; one LF at its end does not count. Prints the version: LOG:SEQ
#[derive(Debug, Args)]
pub(crate) struct Put {
    #[command(flatten)]
    place: Place,
    /// The key
    key: String,
}

impl Put {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let value = value_from_input()?;
        let (store, collection) = self.place.open_to_write()?;
        let receipt = collection.put(&self.key.into_bytes(), &value)?;
        finish(&store, &receipt)
    }
}

/// Print what a key holds: 0 one value; 1 nothing, or several versions in conflict, each as a line of JSON
#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    place: Place,
    /// The key
    key: String,
    /// One JSON object, with the version's place and time
    #[arg(long)]
    json: bool,
}

impl Get {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let found = self.place.open_to_read()?.get(&self.key.clone().into_bytes())?;
        let mut output = Output::new();
        match &found {
            Versions::One(only) if !self.json => output.line(only.value().map_or(&b""[..], |value| value))?,
            found => found.all().iter().try_for_each(|version| output.json(&VersionLine::of(version)))?,
        }
        output.flush()?;
        Ok(match &found {
            Versions::One(_) => Answer::Done,
            Versions::None => Answer::BadNews(Some(format!("nothing under {}", self.key))),
            Versions::Conflict(versions) => Answer::BadNews(Some(format!(
                "{} of {} in conflict: `counterfoil resolve` decides",
                count(versions.len() as u64, "versions"),
                self.key
            ))),
        })
    }
}

/// Delete a key. Prints the version: LOG:SEQ
#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    place: Place,
    /// The key
    key: String,
}

impl Delete {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let (store, collection) = self.place.open_to_write()?;
        let key = self.key.clone().into_bytes();
        if matches!(collection.get(&key)?, Versions::None) {
            store.close(Duration::ZERO)?;
            return Ok(Answer::BadNews(Some(format!("nothing under {}", self.key))));
        }
        let receipt = collection.delete(&key)?;
        finish(&store, &receipt)
    }
}

/// Print the keys that hold something, one a line, in order
#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(flatten)]
    place: Place,
    /// Begin at this key
    #[arg(long, value_name = "K")]
    from: Option<String>,
    /// End after so many keys
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Keys {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let from = self.from.clone().unwrap_or_default().into_bytes();
        let mut output = Output::new();
        for key in self.place.open_to_read()?.keys(from..)?.take(self.limit.unwrap_or(usize::MAX)) {
            output.line(key?)?;
        }
        output.flush()?;
        Ok(Answer::Done)
    }
}

/// Print the keys that hold several versions, with them, one JSON object a line: 1 if there are any
#[derive(Debug, Args)]
pub(crate) struct Conflicts {
    #[command(flatten)]
    place: Place,
}

impl Conflicts {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let mut output = Output::new();
        let mut found = 0;
        for entry in self.place.open_to_read()?.conflicts()? {
            let (key, versions) = entry?;
            let versions = versions.all().iter().map(VersionLine::of).collect();
            output.json(&ConflictLine { key: Text::of(&key).into_key(), versions })?;
            found += 1;
        }
        output.flush()?;
        Ok(match found {
            0 => Answer::Done,
            _ => Answer::BadNews(Some(format!("{} in conflict: `counterfoil resolve` decides", count(found, "keys")))),
        })
    }
}

/// Put one version in the place of all that a key holds. Prints the version that does: LOG:SEQ
#[derive(Debug, Args)]
pub(crate) struct Resolve {
    #[command(flatten)]
    place: Place,
    /// The key
    key: String,
    /// Take this one of the versions, as `get` and `conflicts` show them
    #[arg(long, value_name = "LOG:SEQ", required_unless_present = "with")]
    take: Option<VersionId>,
    /// Put this value instead: - reads it from standard input
    #[arg(long, value_name = "-", conflicts_with = "take", value_parser = ["-"], allow_hyphen_values = true)]
    with: Option<String>,
}

impl Resolve {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let value = if self.with.is_some() { Some(value_from_input()?) } else { None };
        let (store, collection) = self.place.open_to_write()?;
        let key = self.key.clone().into_bytes();
        let found = collection.get(&key)?;
        let receipt = match (value, self.take) {
            (Some(value), _) => collection.resolve(&key, &found, Some(&value))?,
            (None, Some(chosen)) => collection.take(&key, &found, chosen)?,
            (None, None) => return Err(Failure::Usage("say --take LOG:SEQ, or --with -".to_owned())),
        };
        finish(&store, &receipt)
    }
}

/// Print every version of a key, oldest first, with what it supersedes, one JSON object a line
#[derive(Debug, Args)]
pub(crate) struct History {
    #[command(flatten)]
    place: Place,
    /// The key
    key: String,
}

impl History {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let collection = self.place.open_to_read()?;
        let key = self.key.clone().into_bytes();
        let live: Vec<_> = collection.get(&key)?.all().iter().map(Version::id).collect();
        let history = collection.history(&key)?;
        let mut output = Output::new();
        for version in &history.versions {
            let supersedes = version.supersedes().iter().map(ToString::to_string).collect();
            let is_live = live.contains(&version.id());
            output.json(&HistoryLine { version: VersionLine::of(version), supersedes, live: is_live })?;
        }
        output.flush()?;
        let missing: Vec<_> = history.missing.iter().map(ToString::to_string).collect();
        Ok(match (&history.versions[..], &missing[..]) {
            ([], []) => Answer::BadNews(Some(format!("nothing was ever under {}", self.key))),
            (_, []) => Answer::Done,
            (_, missing) => Answer::BadNews(Some(format!("superseded, and not here: {}", missing.join(", ")))),
        })
    }
}

/// Text as it is, other bytes as base64: under one of two names.
#[derive(Serialize)]
pub(crate) enum Text<'a> {
    #[serde(rename = "body")]
    Text(&'a str),
    #[serde(rename = "body_base64")]
    Bytes(String),
}

impl<'a> Text<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Bytes(BASE64_STANDARD.encode(bytes)),
        }
    }

    pub(crate) fn into_key(self) -> Key<'a> {
        match self {
            Self::Text(text) => Key::Text(text),
            Self::Bytes(base64) => Key::Bytes(base64),
        }
    }
}

/// The same for keys.
#[derive(Serialize)]
pub(crate) enum Key<'a> {
    #[serde(rename = "key")]
    Text(&'a str),
    #[serde(rename = "key_base64")]
    Bytes(String),
}

/// A version as JSON. The names of the fields stay as they are.
#[derive(Serialize)]
struct VersionLine<'a> {
    log: String,
    seq: u64,
    node: &'a str,
    recorded_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    happened_at: Option<String>,
    /// Left out of a version that has a value.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(flatten)]
    body: Option<Text<'a>>,
}

impl<'a> VersionLine<'a> {
    fn of(version: &'a Version<Bytes>) -> Self {
        Self {
            log: version.id().log.to_string(),
            seq: version.id().seq.0,
            node: version.node().as_str(),
            recorded_at: when::text(version.recorded_at()),
            happened_at: version.happened_at().map(when::text),
            deleted: version.is_deleted(),
            body: version.value().map(|value| Text::of(value)),
        }
    }
}

#[derive(Serialize)]
struct ConflictLine<'a> {
    #[serde(flatten)]
    key: Key<'a>,
    versions: Vec<VersionLine<'a>>,
}

#[derive(Serialize)]
struct HistoryLine<'a> {
    #[serde(flatten)]
    version: VersionLine<'a>,
    supersedes: Vec<String>,
    /// No write supersedes it.
    live: bool,
}
