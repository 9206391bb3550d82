//! A table whose entries are named by the lowest index free (semantics A11) and a
//! generation, so that a name kept too long finds nothing.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Room for `len` entries of a table by index, and an eighth more. Twice as many, as a Vec would
/// take, are a third of an idle connection's memory.
pub(crate) fn make_room<T>(table: &mut Vec<T>, len: usize) {
    if len > table.capacity() {
        table.reserve_exact((len - table.len()).max(table.len() / 8).max(16));
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    entry: Option<T>,
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    /// Indices below `slots.len()` without an entry.
    free: BinaryHeap<Reverse<u32>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { slots: Vec::new(), free: BinaryHeap::new() }
    }
}

impl<T> Slab<T> {
    /// Entries present.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<T>>()
            + self.free.capacity() * size_of::<Reverse<u32>>()
    }

    /// Adds an entry, which learns its index and generation. None when four thousand
    /// million are in use.
    pub(super) fn insert(&mut self, make: impl FnOnce(u32, u32) -> T) -> Option<(u32, u32)> {
        let index = match self.free.pop() {
            Some(Reverse(index)) => index,
            None => {
                // u32::MAX means "none" in the lists.
                let index = u32::try_from(self.slots.len()).ok().filter(|&i| i < u32::MAX)?;
                make_room(&mut self.slots, index as usize + 1);
                self.slots.push(Slot { generation: 0, entry: None });
                index
            }
        };
        let slot = self.slots.get_mut(index as usize)?;
        slot.entry = Some(make(index, slot.generation));
        Some((index, slot.generation))
    }

    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize)?;
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(Reverse(index));
        Some(entry)
    }

    /// By index alone: for names from the multiplexor's own lists.
    pub(super) fn at(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.entry.as_ref()
    }

    pub(super) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.entry.as_mut()
    }

    /// By full name: for names kept by users.
    pub(super) fn get(&self, index: u32, generation: u32) -> Option<&T> {
        let slot = self.slots.get(index as usize)?;
        slot.entry.as_ref().filter(|_| slot.generation == generation)
    }

    pub(super) fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        let slot = self.slots.get_mut(index as usize)?;
        slot.entry.as_mut().filter(|_| slot.generation == generation)
    }

    /// All entries, by index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots
            .iter()
            .zip(0u32..)
            .filter_map(|(slot, index)| Some((index, slot.entry.as_ref()?)))
    }

    /// All entries, by index.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|slot| slot.entry.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_index_is_used_and_old_names_find_nothing() {
        let mut slab = Slab::default();
        let names: Vec<_> = (0..3).map(|n| slab.insert(|_, _| n).unwrap()).collect();
        assert_eq!(names, [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(slab.remove(1), Some(1));
        assert_eq!(slab.remove(0), Some(0));
        assert_eq!((slab.remove(0), slab.len()), (None, 1));
        assert_eq!(slab.insert(|index, _| index), Some((0, 1)));
        assert_eq!(slab.insert(|index, _| index), Some((1, 1)));
        assert_eq!(slab.insert(|index, _| index), Some((3, 0)));
        assert!(slab.get(0, 0).is_none() && slab.get_mut(1, 0).is_none());
        assert_eq!(slab.get(0, 1), Some(&0));
        assert_eq!(slab.iter().map(|(i, _)| i).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
