//! `counterfoil put`, `get`, `delete`, `keys`, `conflicts`, `resolve`, `history`: values under keys.

use std::{
    collections::HashMap,
    fmt,
    io::{self, Read as _},
    path::PathBuf,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use clap::Args;
use counterfoil::{
    Collection, Durability, ErrorKind, MAX_VALUE_LEN, MissingRange, Receipt, Store, Version, VersionId, Versions,
};
use serde::Serialize;

use crate::{
    failure::{Answer, Failure, tell},
    open::{lost_end, open_to_read, open_to_write, space_of, space_there},
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
    fn open_to_read(&self) -> Result<Opened, Failure> {
        let store = open_to_read(&self.store)?;
        let space = space_there(&store, &self.store, self.space.as_deref())?;
        let collection = space.collection_of_bytes(&self.collection)?;
        Ok(Opened { path: self.store.clone(), store, collection })
    }

    /// As the only process that writes.
    fn open_to_write(&self) -> Result<Opened, Failure> {
        let store = open_to_write(&self.store)?;
        let collection = space_of(&store, self.space.as_deref())?.collection_of_bytes(&self.collection)?;
        Ok(Opened { path: self.store.clone(), store, collection })
    }
}

/// A collection, in a store that is open.
struct Opened {
    path: PathBuf,
    store: Store,
    collection: BytesCollection,
}

/// How many missing ranges one line names.
const RANGES_SHOWN: usize = 5;
/// How many collections.
const NAMES_SHOWN: usize = 10;

impl Opened {
    /// That the collection is not there though others are, which is most likely a slip.
    fn not_there(&self) -> Result<Option<String>, Failure> {
        let (space, name) = (self.collection.space(), self.collection.name());
        let names = space.collections()?;
        if names.is_empty() || names.iter().any(|there| there == name) {
            return Ok(None);
        }
        let shown = names.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
        let more = names.len().saturating_sub(NAMES_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Ok(Some(format!("no collection {name} in space {}; it has: {shown}{more}", space.name())))
    }

    /// That nothing is under a key, or that not even the collection is there.
    fn nothing_under(&self, what: String) -> Result<Option<String>, Failure> {
        Ok(self.not_there()?.or(Some(what)))
    }

    /// Waits until a write is durable, says which version it made, and closes the store.
    fn finish(&self, receipt: &Receipt) -> Result<(), Failure> {
        receipt.wait(Durability::Local)?;
        self.store.close(Duration::ZERO)?;
        let version = VersionId { log: receipt.log(), seq: receipt.first_seq() };
        let mut output = Output::new();
        let printed = output.line(version.to_string()).and_then(|()| output.flush());
        printed
            .map_err(|failure| Failure::CutShort(format!("{failure}; it is in the store all the same, as {version}")))
    }

    /// What is missing of the space here, and what to do: where something is, whatever was found may be wrong.
    fn missing(&self) -> Result<Option<String>, Failure> {
        let missing = self.collection.missing()?;
        let shown: Vec<_> = missing.iter().take(RANGES_SHOWN).map(ToString::to_string).collect();
        let more = missing.len().saturating_sub(RANGES_SHOWN);
        let more = if more > 0 { format!(" and {} more", count(more as u64, "ranges")) } else { String::new() };
        let holes = (!missing.is_empty()).then(|| {
            format!(
                "missing here, so that this may be wrong: records {}{more}; `counterfoil repair {} --from NODE@ADDR \
                 --tls DIR` gets back what that node has",
                shown.join(", "),
                self.path.display(),
            )
        });
        let told: Vec<_> = holes.into_iter().chain(self.lost_end(&missing)).collect();
        Ok((!told.is_empty()).then(|| told.join("; ")))
    }

    /// Damage that left no hole: a log whose last commits are lost looks as if it ended before them.
    fn lost_end(&self, missing: &[MissingRange]) -> Option<String> {
        let missing: Vec<_> = missing.iter().map(|range| (range.log, range.first_seq, range.next_seq)).collect();
        let logs: Vec<_> = self.collection.space().logs().iter().map(|info| info.id).collect();
        let damage = lost_end(&self.store, &logs, &missing)?;
        Some(format!(
            "records may be missing here, so that this may be wrong: {damage}; `counterfoil sync` with a node that has \
             them brings them back"
        ))
    }
}

/// How a command ends that has told what it found, with what else there is to say.
fn answer(news: impl IntoIterator<Item = Option<String>>) -> Answer {
    let news: Vec<_> = news.into_iter().flatten().collect();
    if news.is_empty() { Answer::Done } else { Answer::BadNews(Some(news.join("; "))) }
}

/// The key.
#[derive(Debug, Args)]
struct KeyWord {
    /// The key
    key: String,
    /// The key is given in base64, as `key_base64` shows it: for one that is not UTF-8, or holds NUL
    #[arg(long)]
    key_base64: bool,
}

impl KeyWord {
    fn bytes(&self) -> Result<Vec<u8>, Failure> {
        key_bytes(&self.key, self.key_base64)
    }
}

impl fmt::Display for KeyWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

fn key_bytes(word: &str, is_base64: bool) -> Result<Vec<u8>, Failure> {
    if !is_base64 {
        return Ok(word.as_bytes().to_vec());
    }
    BASE64_STANDARD.decode(word).map_err(|error| Failure::Usage(format!("the key {word:?} is not base64: {error}")))
}

/// Standard input to its end; one LF there does not count, unless it is to stay as it is.
fn value_from_input(is_raw: bool) -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    let limit = MAX_VALUE_LEN as u64 + 2;
    io::stdin().lock().take(limit).read_to_end(&mut value).map_err(Failure::Input)?;
    value.pop_if(|last| *last == b'\n' && !is_raw);
    if value.len() > MAX_VALUE_LEN {
        let what = "keep it in a file, and put where that is, or put it in parts";
        return Err(Failure::Usage(format!("the value is longer than {MAX_VALUE_LEN} bytes, the limit: {what}")));
    }
    Ok(value.into())
}

/// Put a value, from standard input, under a key. Prints the version: LOG:SEQ
///
/// One LF at the end of the input does not count, and `get` prints one after the value: so a line is put and printed as it
/// is. With --raw here and there all bytes are the value's.
#[derive(Debug, Args)]
pub(crate) struct Put {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: KeyWord,
    /// A LF at the end is a part of the value
    #[arg(long)]
    raw: bool,
}

impl Put {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let key = self.key.bytes()?;
        let value = value_from_input(self.raw)?;
        let opened = self.place.open_to_write()?;
        opened.finish(&opened.collection.put(&key, &value)?)?;
        Ok(Answer::Done)
    }
}

/// Print what a key holds: 0 one value; 1 nothing, or several versions in conflict, each as a line of JSON
///
/// A LF is printed after the value, unless --raw is given.
#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: KeyWord,
    /// One JSON object, with the version's place and time
    #[arg(long)]
    json: bool,
    /// No LF after the value
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

impl Get {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let key = self.key.bytes()?;
        let opened = self.place.open_to_read()?;
        let found = match opened.collection.get(&key) {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                return Ok(answer([Some(error.to_string()), opened.missing()?]));
            }
            found => found?,
        };
        let mut output = Output::new();
        match &found {
            Versions::One(only) if !self.json => {
                output.bytes(only.value().map_or(&b""[..], |value| value))?;
                output.bytes(if self.raw { "" } else { "\n" })?;
            }
            found => found.all().iter().try_for_each(|version| output.json(&VersionLine::of(version)))?,
        }
        output.flush()?;
        let news = match &found {
            Versions::One(_) => None,
            Versions::None => opened.nothing_under(format!("nothing under {}", self.key))?,
            Versions::Conflict(versions) => Some(format!(
                "{} of {} in conflict: `counterfoil resolve` decides",
                count(versions.len() as u64, "versions"),
                self.key
            )),
        };
        Ok(answer([news, opened.missing()?]))
    }
}

/// Delete a key. Prints the version: LOG:SEQ
#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: KeyWord,
}

impl Delete {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let key = self.key.bytes()?;
        let opened = self.place.open_to_write()?;
        let collection = &opened.collection;
        let missing = opened.missing()?;
        let is_there = match collection.get(&key) {
            // Something is, though it can't be read.
            Err(error) if error.kind() == ErrorKind::Damaged => true,
            found => !matches!(found?, Versions::None),
        };
        if !is_there {
            let nothing = opened.nothing_under(format!("nothing under {}", self.key))?;
            opened.store.close(Duration::ZERO)?;
            return Ok(answer([nothing, missing]));
        }
        opened.finish(&collection.delete(&key)?)?;
        Ok(answer([missing]))
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
    /// The key of --from is given in base64, as `key_base64` shows it
    #[arg(long, requires = "from")]
    key_base64: bool,
    /// End after so many keys
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// One JSON object a line: for keys that are not UTF-8, or hold LF
    #[arg(long)]
    json: bool,
}

impl Keys {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let from = key_bytes(self.from.as_deref().unwrap_or_default(), self.key_base64)?;
        let opened = self.place.open_to_read()?;
        let mut output = Output::new();
        for key in opened.collection.keys(from..)?.take(self.limit.unwrap_or(usize::MAX)) {
            let key = key?;
            if self.json { output.json(&Text::of(&key).into_key()) } else { output.line(key) }?;
        }
        output.flush()?;
        Ok(answer([opened.not_there()?, opened.missing()?]))
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
        let opened = self.place.open_to_read()?;
        let mut output = Output::new();
        let (mut found, mut unread, mut first_unread) = (0, 0, None);
        for entry in opened.collection.conflicts()? {
            let (key, versions) = match entry {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    unread += 1;
                    first_unread.get_or_insert(error);
                    continue;
                }
                entry => entry?,
            };
            let versions = versions.all().iter().map(VersionLine::of).collect();
            output.json(&ConflictLine { key: Text::of(&key).into_key(), versions })?;
            found += 1;
        }
        output.flush()?;
        let decides =
            (found > 0).then(|| format!("{} in conflict: `counterfoil resolve` decides", count(found, "keys")));
        let unread = first_unread.map(|first| format!("{} more can't be read: {first}", count(unread, "keys")));
        Ok(answer([opened.not_there()?, decides, unread, opened.missing()?]))
    }
}

/// Put one version in the place of all that a key holds. Prints the version that does: LOG:SEQ
#[derive(Debug, Args)]
pub(crate) struct Resolve {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: KeyWord,
    /// Take this one of the versions, as `get` and `conflicts` show them
    #[arg(long, value_name = "LOG:SEQ")]
    take: Option<VersionId>,
    /// Put this value instead: - reads it from standard input
    #[arg(long, value_name = "-", conflicts_with = "take", value_parser = ["-"], allow_hyphen_values = true)]
    with: Option<String>,
    /// With --with: a LF at the end is a part of the value
    #[arg(long, requires = "with")]
    raw: bool,
}

impl Resolve {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        if self.with.is_none() && self.take.is_none() {
            let choice =
                "say what is to stay: --take LOG:SEQ one of the versions, or --with - a value on standard input";
            return Err(Failure::Usage(choice.to_owned()));
        }
        let key = self.key.bytes()?;
        let value = if self.with.is_some() { Some(value_from_input(self.raw)?) } else { None };
        let opened = self.place.open_to_write()?;
        let found = opened.collection.get(&key)?;
        if matches!(found, Versions::None) {
            let nothing =
                opened.nothing_under(format!("nothing under {0}: `counterfoil put` puts a value there", self.key))?;
            let missing = opened.missing()?;
            opened.store.close(Duration::ZERO)?;
            return Ok(answer([nothing, missing]));
        }
        let receipt = match self.take {
            Some(chosen) => opened.collection.take(&key, &found, chosen)?,
            None => opened.collection.resolve(&key, &found, value.as_ref())?,
        };
        opened.finish(&receipt)?;
        Ok(Answer::Done)
    }
}

/// Print every version of a key, oldest first, with what it supersedes, one JSON object a line
#[derive(Debug, Args)]
pub(crate) struct History {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: KeyWord,
}

impl History {
    pub(crate) fn run(self) -> Result<Answer, Failure> {
        let key = self.key.bytes()?;
        let opened = self.place.open_to_read()?;
        let history = opened.collection.history(&key)?;
        let mut output = Output::new();
        for version in &history.versions {
            let supersedes = version.supersedes().iter().map(ToString::to_string).collect();
            let is_live = history.live.contains(&version.id());
            output.json(&HistoryLine { version: VersionLine::of(version), supersedes, live: is_live })?;
        }
        output.flush()?;
        // What retention has removed is told, and is no bad news.
        let floors: HashMap<_, _> =
            opened.collection.space().logs().iter().map(|info| (info.id, info.first_seq)).collect();
        let is_trimmed = |id: &&VersionId| floors.get(&id.log).is_some_and(|floor| id.seq < *floor);
        let (trimmed, not_here): (Vec<_>, Vec<_>) = history.missing.iter().partition(is_trimmed);
        let listed = |ids: &[&VersionId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if !trimmed.is_empty() {
            tell(&format!("versions of {} that retention has removed: {}", self.key, listed(&trimmed)));
        }
        let news = match (&history.versions[..], &not_here[..]) {
            ([], []) if trimmed.is_empty() => opened.nothing_under(format!("nothing was ever under {}", self.key))?,
            (_, []) => None,
            (_, not_here) => Some(format!("versions of {} that are not here: {}", self.key, listed(not_here))),
        };
        Ok(answer([news, opened.missing()?]))
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
