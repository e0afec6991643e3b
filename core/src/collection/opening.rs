//! How collections are opened: of a space, with the index file of its store.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use counterfoil_storage::{AppendError, Journal, Options, SpaceName};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Collection, Engine, Key, OnProgress, Transaction, Values, Verbatim, engine::EngineOptions, index::IndexFile,
};
use crate::{
    codec::{Codec, CodecError},
    error::Result,
    space::Space,
    store::lock,
    typed::Typed,
};

/// What a store keeps of its collections: how they are opened, and the file of their index while it is open.
pub(crate) struct Collections {
    options: EngineOptions,
    file: Mutex<Option<Arc<IndexFile>>>,
}

impl Collections {
    pub(crate) fn new(wanted: CollectionOptions, options: &Options) -> Self {
        let options = EngineOptions {
            bytes_max: wanted.bytes_max,
            vfs: Arc::clone(&options.vfs),
            is_read_only: options.read_only,
            background: options.background,
            on_progress: wanted.on_progress,
        };
        Self { options, file: Mutex::default() }
    }

    /// Opens the collections of a space.
    fn open(&self, journal: &Journal, space: &SpaceName) -> Result<Arc<Engine>> {
        let mut file = lock(&self.file);
        let opened = match &*file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(file.insert(self.options.open_file(journal)?)),
        };
        drop(file);
        Engine::open(journal.clone(), space.clone(), opened, &self.options)
    }

    /// Writes what `engines` have taken in, and closes the file.
    pub(crate) fn close<'a>(&self, engines: impl Iterator<Item = &'a Arc<Engine>>) {
        engines.for_each(Engine::close);
        drop(lock(&self.file).take());
    }
}

impl Space {
    /// A collection of values in this space, encoded with bincode. With another codec, schema versions, upgrades:
    /// [`Typed::collection`].
    ///
    /// The first collection of a space that is opened takes in what the index has not seen: all of the space's logs,
    /// if it is made anew.
    ///
    /// # Errors
    ///
    /// The text can't be a name (those of spaces' are taken); a log or the index can't be read.
    pub fn collection<K: Key, V>(&self, name: impl AsRef<str>) -> Result<Collection<K, V>>
    where
        V: Serialize + DeserializeOwned + 'static,
    {
        self.typed().collection(name)
    }

    /// A collection of values that are bytes and stay as they are. What typed collections wrote is read as the bytes that their codec
    /// made; what is written here is read by a typed collection if its codec can.
    ///
    /// # Errors
    ///
    /// As of [`collection`](Self::collection).
    pub fn collection_of_bytes<K: Key>(&self, name: impl AsRef<str>) -> Result<Collection<K, Bytes>> {
        Collection::new(self.clone(), name.as_ref(), Arc::new(Verbatim))
    }

    /// The names of the collections of this space to which something was ever written here or has come here, ascending.
    ///
    /// ```
    /// let space = counterfoil::Store::in_memory()?.own_space()?;
    /// space.collection::<u32, String>("beds")?.put(&7, &"Ann".into())?;
    /// assert_eq!(space.collections()?, ["beds"]);
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A log or the index can't be read.
    pub fn collections(&self) -> Result<Vec<String>> {
        self.engine()?.names()
    }

    /// To write to several keys at once, of one or more collections of this space.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.clone())
    }

    /// The collections of this space, opened once.
    pub(crate) fn engine(&self) -> Result<Arc<Engine>> {
        let (inner, state) = self.parts();
        let mut engine = lock(&state.engine);
        if let Some(engine) = &*engine {
            return Ok(Arc::clone(engine));
        }
        if inner.is_closed() {
            return Err(AppendError::Closed.into());
        }
        Ok(Arc::clone(engine.insert(inner.collections.open(&inner.journal, &state.name)?)))
    }
}

impl<T, C: Codec> Typed<T, C>
where
    T: Serialize + DeserializeOwned + 'static,
{
    /// A collection of such values: with this codec, schema version and upgrades.
    ///
    /// ```
    /// use counterfoil::Store;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Patient { name: String, phone: Option<String> }
    ///
    /// impl From<String> for Patient {
    ///     fn from(name: String) -> Self { Self { name, phone: None } }
    /// }
    ///
    /// let space = Store::in_memory()?.own_space()?;
    /// space.collection::<u64, String>("patients")?.put(&7, &"Ann".into())?;
    /// let typed = space.typed::<Patient>().schema_version(2).upgrade_from::<String>(1);
    /// let patients = typed.collection::<u64>("patients")?;
    /// assert_eq!(patients.get(&7)?.value().expect("it is upgraded").name, "Ann");
    /// # Ok::<(), counterfoil::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As of [`Space::collection`].
    pub fn collection<K: Key>(&self, name: impl AsRef<str>) -> Result<Collection<K, T>> {
        Collection::new(self.space().clone(), name.as_ref(), Arc::new(self.clone()))
    }
}

impl<T: Serialize + DeserializeOwned, C: Codec> Values<T> for Typed<T, C> {
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        Typed::encode(self, value, out)
    }

    fn decode(&self, body: Bytes) -> Result<(T, u16), CodecError> {
        self.decode_value(&body)
    }
}

/// How a builder wants collections.
#[derive(Clone)]
pub(crate) struct CollectionOptions {
    pub(crate) bytes_max: usize,
    pub(crate) on_progress: Option<OnProgress>,
}

/// Memory for the index and what is not written to it yet, unless said otherwise: 64 MiB.
const COLLECTION_BYTES_DEFAULT: usize = 64 << 20;

impl Default for CollectionOptions {
    fn default() -> Self {
        Self { bytes_max: COLLECTION_BYTES_DEFAULT, on_progress: None }
    }
}

impl fmt::Debug for CollectionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectionOptions").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}
