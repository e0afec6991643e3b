//! Rules that decide conflicts.

use super::versions::Version;

/// What a rule decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution<V> {
    /// All versions stay, until somebody else decides.
    KeepBoth,
    /// One of them, by its index.
    Take(usize),
    /// Another value, made of them.
    Put(V),
    /// The key is deleted.
    Delete,
}

/// A rule that decides conflicts: see [`Collection::settle`](super::Collection::settle). Any function of this form is one.
///
/// It should decide by the versions alone: then two nodes that decide at once decide the same.
pub trait Resolver<K, V> {
    /// Decides what becomes of a key's versions, of which there are at least two, in merged order.
    fn resolve(&self, key: &K, versions: &[Version<V>]) -> Resolution<V>;
}

impl<K, V, F: Fn(&K, &[Version<V>]) -> Resolution<V>> Resolver<K, V> for F {
    fn resolve(&self, key: &K, versions: &[Version<V>]) -> Resolution<V> {
        self(key, versions)
    }
}

/// Decides nothing: every conflict is kept until a person decides. What happens without any rule.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeepBoth;

impl<K, V> Resolver<K, V> for KeepBoth {
    fn resolve(&self, _key: &K, _versions: &[Version<V>]) -> Resolution<V> {
        Resolution::KeepBoth
    }
}

/// Takes the version with the latest stamp: for values of which the last one is as good as any. What was written
/// against a clock that was behind loses, so don't use it where each version matters.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewestByClock;

impl<K, V> Resolver<K, V> for NewestByClock {
    fn resolve(&self, _key: &K, versions: &[Version<V>]) -> Resolution<V> {
        versions.len().checked_sub(1).map_or(Resolution::KeepBoth, Resolution::Take)
    }
}
