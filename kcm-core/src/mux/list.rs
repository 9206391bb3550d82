//! FIFO lists of small integers with removal from the middle in constant time.
//!
//! Ten thousand connections may stand in the idle list and any of them may leave it at any
//! moment; a `VecDeque` would search.

use super::slab::make_room;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
    /// In the list at all.
    linked: bool,
}

/// A FIFO of indices, each at most once.
#[derive(Debug)]
pub(super) struct Fifo {
    links: Vec<Link>,
    head: u32,
    tail: u32,
    len: usize,
}

impl Default for Fifo {
    fn default() -> Self {
        Fifo { links: Vec::new(), head: NONE, tail: NONE, len: 0 }
    }
}

impl Fifo {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.links.capacity() * size_of::<Link>()
    }

    pub(super) fn front(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(super) fn contains(&self, index: u32) -> bool {
        self.links.get(index as usize).is_some_and(|link| link.linked)
    }

    /// Appends; one that is in the list already keeps its place.
    pub(super) fn push_back(&mut self, index: u32) {
        if !self.make_room(index) {
            return;
        }
        let tail = self.tail;
        self.set(index, Link { prev: tail, next: NONE, linked: true });
        match self.link(tail) {
            Some(link) => link.next = index,
            None => self.head = index,
        }
        self.tail = index;
        self.len += 1;
    }

    /// Puts it first; one that is in the list already keeps its place.
    pub(super) fn push_front(&mut self, index: u32) {
        if !self.make_room(index) {
            return;
        }
        let head = self.head;
        self.set(index, Link { prev: NONE, next: head, linked: true });
        match self.link(head) {
            Some(link) => link.prev = index,
            None => self.tail = index,
        }
        self.head = index;
        self.len += 1;
    }

    pub(super) fn pop_front(&mut self) -> Option<u32> {
        let index = self.front()?;
        self.remove(index);
        Some(index)
    }

    /// True if it was in the list.
    pub(super) fn remove(&mut self, index: u32) -> bool {
        let Some(link) = self.link(index).filter(|link| link.linked) else {
            return false;
        };
        let Link { prev, next, .. } = *link;
        *link = Link { prev: NONE, next: NONE, linked: false };
        match self.link(prev) {
            Some(link) => link.next = next,
            None => self.head = next,
        }
        match self.link(next) {
            Some(link) => link.prev = prev,
            None => self.tail = prev,
        }
        self.len -= 1;
        true
    }

    /// False if it is in the list already.
    fn make_room(&mut self, index: u32) -> bool {
        let need = index as usize + 1;
        if self.links.len() < need {
            make_room(&mut self.links, need);
            self.links.resize(need, Link { prev: NONE, next: NONE, linked: false });
        }
        !self.contains(index)
    }

    fn set(&mut self, index: u32, link: Link) {
        if let Some(place) = self.links.get_mut(index as usize) {
            *place = link;
        }
    }

    fn link(&mut self, index: u32) -> Option<&mut Link> {
        self.links.get_mut(index as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_fifo_is_a_deque_with_cheap_removal(ops in prop::collection::vec((0u8..4, 0u32..6), 0..80)) {
            let mut fifo = Fifo::default();
            let mut oracle = VecDeque::new();
            for (op, index) in ops {
                match op {
                    0 => {
                        fifo.push_back(index);
                        if !oracle.contains(&index) { oracle.push_back(index); }
                    }
                    1 => {
                        fifo.push_front(index);
                        if !oracle.contains(&index) { oracle.push_front(index); }
                    }
                    2 => prop_assert_eq!(fifo.pop_front(), oracle.pop_front()),
                    _ => {
                        let was = oracle.contains(&index);
                        oracle.retain(|&i| i != index);
                        prop_assert_eq!(fifo.remove(index), was);
                    }
                }
                prop_assert_eq!(fifo.len(), oracle.len());
                prop_assert_eq!(fifo.front(), oracle.front().copied());
                for i in 0..6 { prop_assert_eq!(fifo.contains(i), oracle.contains(&i)); }
            }
            let mut rest = Vec::new();
            while let Some(index) = fifo.pop_front() { rest.push(index); }
            prop_assert_eq!(rest, Vec::from(oracle));
            prop_assert!(fifo.is_empty());
        }
    }
}
