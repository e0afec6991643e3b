//! Typed values over a space.

use std::{
    any::type_name,
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    ops::RangeBounds,
    sync::Arc,
    time::{Duration, SystemTime},
};

use counterfoil_storage::{Hlc, LogId, NodeName, Seq};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec::{Bincode, Codec, CodecError, Envelope, VERBATIM, decode_with},
    cursor::Cursor,
    error::{Error, Result},
    follow::{Follow, FollowStream},
    frontier::Frontier,
    read::{Read, Record},
    receipt::Receipt,
    space::Space,
};

/// The schema version of a type that says no other.
const FIRST_SCHEMA: u16 = 1;

/// A space whose records are values of type `T`, encoded by codec `C`. Cheap to clone.
///
/// What was written to a collection of the same space is passed over when values are read.
///
/// ```
/// use counterfoil::{Durability, Store};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Visit { patient: u64, note: String }
///
/// let store = Store::in_memory()?;
/// let visits = store.own_space()?.typed::<Visit>();
/// visits.append(&Visit { patient: 7, note: "BP 120/80".into() })?.wait(Durability::Local)?;
/// let notes: Vec<_> = visits.read(..)?.map(|visit| Ok(visit?.into_value().note)).collect::<Result<_, counterfoil::Error>>()?;
/// assert_eq!(notes, ["BP 120/80"]);
/// # Ok::<(), counterfoil::Error>(())
/// ```
pub struct Typed<T, C: Codec = Bincode> {
    space: Space,
    check_round_trip: bool,
    decoder: Decoder<T, C>,
}

impl<T, C: Codec> Clone for Typed<T, C> {
    fn clone(&self) -> Self {
        Self { space: self.space.clone(), check_round_trip: self.check_round_trip, decoder: self.decoder.clone() }
    }
}

impl<T, C: Codec> fmt::Debug for Typed<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed")
            .field("space", self.space.name())
            .field("type", &type_name::<T>())
            .field("codec", &C::NAME)
            .finish_non_exhaustive()
    }
}

type DecodeFn<T, C> = fn(&C, u8, &[u8]) -> Result<T, CodecError>;

/// Makes values of bodies, of this schema version and of earlier ones.
struct Decoder<T, C> {
    codec: C,
    schema: u16,
    by_schema: Arc<BTreeMap<u16, DecodeFn<T, C>>>,
}

impl<T, C: Clone> Clone for Decoder<T, C> {
    fn clone(&self) -> Self {
        Self { codec: self.codec.clone(), schema: self.schema, by_schema: Arc::clone(&self.by_schema) }
    }
}

impl<T, C: Codec> Decoder<T, C> {
    /// The value in a body, and the schema version that it was written with.
    fn decode_body(&self, body: &[u8]) -> Result<(T, u16), CodecError> {
        let (Envelope { codec, schema }, value) = Envelope::split(body)?;
        // Bytes that were given as bytes are of no schema version: they are read as of the present one.
        let schema = if codec == VERBATIM { self.schema } else { schema };
        let decode = self.by_schema.get(&schema);
        let decode = decode.ok_or(CodecError::OtherSchema { found: schema, expected: self.schema })?;
        Ok((decode(&self.codec, codec, value)?, schema))
    }

    fn decode(&self, record: Record) -> Result<Entry<T>> {
        match self.decode_body(record.body()) {
            Ok((value, schema)) => Ok(Entry { record, schema, value }),
            Err(error) => {
                Err(Error::Decode { log: record.log(), seq: record.seq(), type_name: type_name::<T>(), error })
            }
        }
    }
}

fn decode_upgraded<Old, T, C>(codec: &C, id: u8, value: &[u8]) -> Result<T, CodecError>
where
    Old: DeserializeOwned + Into<T>,
    C: Codec,
{
    decode_with::<C, Old>(codec, id, value).map(Into::into)
}

thread_local! {
    /// Encoded values on their way into the queue, which copies them.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Scratch space beyond this many bytes is given back after use.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

impl<T: Serialize + DeserializeOwned, C: Codec> Typed<T, C> {
    pub(crate) fn new(space: Space, codec: C) -> Self {
        let by_schema = Arc::new(BTreeMap::from([(FIRST_SCHEMA, decode_upgraded::<T, T, C> as DecodeFn<T, C>)]));
        Self { space, check_round_trip: true, decoder: Decoder { codec, schema: FIRST_SCHEMA, by_schema } }
    }

    /// Says which version of its schema `T` is; 1 unless said. It is written beside every value, and
    /// values of other versions are refused when read, unless [`upgrade_from`](Self::upgrade_from)
    /// names their type.
    #[must_use]
    pub fn schema_version(mut self, version: u16) -> Self {
        let by_schema = Arc::make_mut(&mut self.decoder.by_schema);
        by_schema.remove(&self.decoder.schema);
        by_schema.insert(version, decode_upgraded::<T, T, C>);
        self.decoder.schema = version;
        self
    }

    /// Reads values of an earlier schema version as `Old` and turns them into `T`.
    #[must_use]
    pub fn upgrade_from<Old: DeserializeOwned + Into<T>>(mut self, version: u16) -> Self {
        Arc::make_mut(&mut self.decoder.by_schema).insert(version, decode_upgraded::<Old, T, C>);
        self
    }

    /// Whether each value is decoded once before it is appended, to refuse what the codec can't
    /// read back. Default: true. Costs about as much as decoding.
    #[must_use]
    pub fn check_round_trip(mut self, is_on: bool) -> Self {
        self.check_round_trip = is_on;
        self
    }

    /// The space that holds the values.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Appends a value; see [`Space::append`].
    ///
    /// # Errors
    ///
    /// Besides those of the space: the value can't be encoded, or not be read back
    /// ([`Error::CodecCannotRoundTrip`]). Nothing has been appended then.
    pub fn append(&self, value: &T) -> Result<Receipt> {
        self.with_encoded(value, |body| self.space.append(body))
    }

    /// Like [`append`](Self::append), but fails with
    /// [`WouldBlock`](crate::ErrorKind::WouldBlock) instead of waiting for room in the queue.
    ///
    /// # Errors
    ///
    /// As of [`append`](Self::append) and [`Space::try_append`].
    pub fn try_append(&self, value: &T) -> Result<Receipt> {
        self.with_encoded(value, |body| self.space.try_append(body))
    }

    /// Appends a value of something that happened at another time; see [`Space::append_at`].
    ///
    /// # Errors
    ///
    /// As of [`append`](Self::append).
    pub fn append_at(&self, value: &T, happened_at: SystemTime) -> Result<Receipt> {
        self.with_encoded(value, |body| self.space.append_at(body, happened_at))
    }

    /// Appends values that are committed together; see [`Space::append_all`].
    ///
    /// # Errors
    ///
    /// As of [`append`](Self::append) and [`Space::append_all`].
    pub fn append_all<'a>(&self, values: impl IntoIterator<Item = &'a T>) -> Result<Receipt>
    where
        T: 'a,
    {
        let mut bodies = Vec::new();
        for value in values {
            let mut body = Vec::new();
            self.encode(value, &mut body)?;
            bodies.push(body);
        }
        self.space.append_all(&bodies)
    }

    fn with_encoded(&self, value: &T, append: impl FnOnce(&[u8]) -> Result<Receipt>) -> Result<Receipt> {
        // Taken, not borrowed: a value's `Serialize` may append other values.
        let mut scratch = SCRATCH.take();
        scratch.clear();
        let result = self.encode(value, &mut scratch).and_then(|()| append(&scratch));
        if scratch.capacity() <= SCRATCH_BYTES_MAX {
            SCRATCH.set(scratch);
        }
        result
    }

    /// The bytes of a value, with the envelope before it.
    pub(crate) fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        let Decoder { codec, schema, .. } = &self.decoder;
        Envelope { codec: C::ID, schema: *schema }.write(out);
        codec.encode(value, out).map_err(|error| Error::Encode { error })?;
        if self.check_round_trip {
            let (_, encoded) = Envelope::split(out).map_err(|error| Error::Encode { error })?;
            codec.decode::<T>(encoded).map_err(|error| Error::CodecCannotRoundTrip {
                codec: C::NAME,
                type_name: type_name::<T>(),
                error,
            })?;
        }
        Ok(())
    }

    /// The value in a body, and the schema version that it was written with.
    #[cfg(feature = "collections")]
    pub(crate) fn decode_value(&self, body: &[u8]) -> Result<(T, u16), CodecError> {
        self.decoder.decode_body(body)
    }

    /// Reads durable values: those of the whole space in merged order (`..`), or a part of this node's own log
    /// (`Seq(3)..Seq(5)`); see [`Space::read`].
    ///
    /// # Errors
    ///
    /// As of [`Space::read`].
    pub fn read(&self, range: impl RangeBounds<Seq>) -> Result<TypedRead<T, C>> {
        Ok(TypedRead { records: self.space.read(range)?, decoder: self.decoder.clone() })
    }

    /// Reads the values that were there as of a frontier; see [`Space::as_of`].
    ///
    /// # Errors
    ///
    /// As of [`Space::as_of`].
    pub fn as_of(&self, frontier: &Frontier) -> Result<TypedRead<T, C>> {
        Ok(TypedRead { records: self.space.as_of(frontier)?, decoder: self.decoder.clone() })
    }

    /// Reads durable values of one of the space's logs; see [`Space::read_log`].
    ///
    /// # Errors
    ///
    /// As of [`Space::read_log`].
    pub fn read_log(&self, log: LogId, range: impl RangeBounds<Seq>) -> Result<TypedRead<T, C>> {
        Ok(TypedRead { records: self.space.read_log(log, range)?, decoder: self.decoder.clone() })
    }

    /// Follows the values of all the space's logs as they become durable; see [`Space::follow`].
    pub fn follow(&self, cursor: Cursor) -> TypedFollow<T, C> {
        TypedFollow { records: self.space.follow(cursor), decoder: self.decoder.clone() }
    }
}

/// A value with its place and time.
#[derive(Debug, Clone)]
pub struct Entry<T> {
    record: Record,
    schema: u16,
    value: T,
}

impl<T> Entry<T> {
    /// The value.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Takes the value out.
    pub fn into_value(self) -> T {
        self.value
    }

    /// Its sequence number in its log.
    pub fn seq(&self) -> Seq {
        self.record.seq()
    }

    /// Its log.
    pub fn log(&self) -> LogId {
        self.record.log()
    }

    /// The node that wrote it.
    pub fn node(&self) -> &NodeName {
        self.record.node()
    }

    /// When its writer recorded it.
    pub fn time(&self) -> Hlc {
        self.record.time()
    }

    /// When its writer recorded it, by the writer's clock.
    pub fn recorded_at(&self) -> SystemTime {
        self.record.recorded_at()
    }

    /// When it happened, if that was not when it was recorded.
    pub fn happened_at(&self) -> Option<SystemTime> {
        self.record.happened_at()
    }

    /// The schema version it was written with.
    pub fn schema_version(&self) -> u16 {
        self.schema
    }

    /// The record as stored, envelope included.
    pub fn record(&self) -> &Record {
        &self.record
    }
}

/// Iterator over values. After an error it can go on with what follows.
pub struct TypedRead<T, C: Codec = Bincode> {
    records: Read,
    decoder: Decoder<T, C>,
}

/// Whether it can be a value, or an error: what a collection wrote is neither.
fn may_be_value(item: &Result<Record>) -> bool {
    item.as_ref().map_or(true, |record| !record.is_of_collection())
}

impl<T, C: Codec> Iterator for TypedRead<T, C> {
    type Item = Result<Entry<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.records.by_ref().find(may_be_value)?;
        Some(item.and_then(|record| self.decoder.decode(record)))
    }
}

/// Blocking iterator over values as they become durable; see [`Follow`].
pub struct TypedFollow<T, C: Codec = Bincode> {
    records: Follow,
    decoder: Decoder<T, C>,
}

impl<T, C: Codec> TypedFollow<T, C> {
    /// Where it stands: after the last value it gave.
    pub fn cursor(&self) -> &Cursor {
        self.records.cursor()
    }

    /// Waits for the next value, but no longer than `timeout`; see [`Follow::next_timeout`].
    ///
    /// # Errors
    ///
    /// As of [`Follow::next_timeout`]; or the record is no such value.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Entry<T>>> {
        let record = self.records.next_timeout_of(timeout, |record| !record.is_of_collection())?;
        record.map(|record| self.decoder.decode(record)).transpose()
    }

    /// The same as a [`Stream`](futures_core::Stream), for async code.
    pub fn into_stream(self) -> TypedFollowStream<T, C> {
        TypedFollowStream { records: self.records.into_stream(), decoder: self.decoder }
    }
}

impl<T, C: Codec> Iterator for TypedFollow<T, C> {
    type Item = Result<Entry<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.records.by_ref().find(may_be_value)?;
        Some(item.and_then(|record| self.decoder.decode(record)))
    }
}

/// Stream over values as they become durable.
pub struct TypedFollowStream<T, C: Codec = Bincode> {
    records: FollowStream,
    decoder: Decoder<T, C>,
}

impl<T, C: Codec> TypedFollowStream<T, C> {
    /// Where it stands: after the last value it gave.
    pub fn cursor(&self) -> &Cursor {
        self.records.cursor()
    }
}

impl<T, C: Codec + Unpin> futures_core::Stream for TypedFollowStream<T, C> {
    type Item = Result<Entry<T>>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let item = std::task::ready!(std::pin::Pin::new(&mut this.records).poll_next(cx));
            if item.as_ref().is_none_or(may_be_value) {
                let decode = |record: Result<Record>| record.and_then(|record| this.decoder.decode(record));
                return std::task::Poll::Ready(item.map(decode));
            }
        }
    }
}

macro_rules! debug_name {
    ($($name:ident),*) => {$(
        impl<T, C: Codec> fmt::Debug for $name<T, C> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("records", &self.records).finish_non_exhaustive()
            }
        }
    )*};
}

debug_name!(TypedRead, TypedFollow, TypedFollowStream);
