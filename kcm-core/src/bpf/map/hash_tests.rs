//! Hash maps against the standard library's, and from many threads.

use super::{hash::Hash, *};
use proptest::prelude::*;
use std::collections::HashMap;

fn put(m: &Hash, key: u32, value: u64, exists: Exists) -> Result<(), MapError> {
    m.update(&key.to_le_bytes(), exists, |v, at| {
        let _ = v.store(at, 8, value);
    })
}

fn get(m: &Hash, key: u32) -> Option<u64> {
    m.lookup(&key.to_le_bytes()).and_then(|at| m.values().load(at, 8))
}

#[derive(Clone, Debug)]
enum Op {
    Put(u32, u64, u8),
    Get(u32),
    Delete(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0u32..12, any::<u64>(), 0u8..3).prop_map(|(k, v, f)| Op::Put(k, v, f)),
        (0u32..12).prop_map(Op::Get),
        (0u32..12).prop_map(Op::Delete),
    ]
}

proptest! {
    #[test]
    fn it_does_what_a_map_with_a_limit_does(ops in prop::collection::vec(op(), 0..200)) {
        let m = Hash::new(4, 8, 8, false).unwrap();
        let mut model: HashMap<u32, u64> = HashMap::new();
        for op in ops {
            match op {
                Op::Put(k, v, f) => {
                    let f = [Exists::Either, Exists::MustNot, Exists::Must][f as usize];
                    let want = match (model.contains_key(&k), f) {
                        (true, Exists::MustNot) => Err(MapError::Exists),
                        (false, Exists::Must) => Err(MapError::NotFound),
                        (false, _) if model.len() == 8 => Err(MapError::Full),
                        _ => {
                            model.insert(k, v);
                            Ok(())
                        }
                    };
                    prop_assert_eq!(put(&m, k, v, f), want);
                }
                Op::Get(k) => prop_assert_eq!(get(&m, k), model.get(&k).copied()),
                Op::Delete(k) => {
                    let want = model.remove(&k).map(drop).ok_or(MapError::NotFound);
                    prop_assert_eq!(m.delete(&k.to_le_bytes()), want);
                }
            }
            prop_assert_eq!(m.len(), model.len());
        }
        let mut keys = m.keys();
        keys.sort();
        let mut want: Vec<_> = model.keys().map(|k| k.to_le_bytes().to_vec()).collect();
        want.sort();
        prop_assert_eq!(keys, want);
    }
}

#[test]
fn a_full_lru_map_throws_out_what_was_not_looked_up() {
    let m = Hash::new(4, 8, 4, true).unwrap();
    for k in 0..4 {
        put(&m, k, u64::from(k), Exists::Either).unwrap();
    }
    // Everything is new: the hand clears all marks and takes the first one.
    put(&m, 4, 4, Exists::Either).unwrap();
    assert_eq!(m.len(), 4);
    let kept: Vec<u32> = (0..4).filter(|k| get(&m, *k).is_some()).collect();
    assert_eq!(kept.len(), 3);
    // 4 and the kept ones are marked by the look-ups; a stream of new keys that nobody
    // looks at replaces itself before it replaces those that are looked at each time.
    for k in 100..200 {
        put(&m, k, 0, Exists::Either).unwrap();
        assert!(get(&m, k).is_some());
        assert_eq!(m.len(), 4);
    }
}

#[test]
fn threads_that_put_get_and_delete_see_only_values_that_were_put() {
    for lru in [false, true] {
        let m = Hash::new(4, 8, 16, lru).unwrap();
        std::thread::scope(|s| {
            for t in 0..4u64 {
                let m = &m;
                s.spawn(move || {
                    let mut x = t + 1;
                    for _ in 0..30_000 {
                        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        let k = (x >> 33) as u32 % 24;
                        match (x >> 60) % 4 {
                            0 => {
                                let _ = m.delete(&k.to_le_bytes());
                            }
                            1 => {
                                let _ = put(m, k, u64::from(k) << 32 | t, Exists::Either);
                            }
                            _ => {
                                if let Some(at) = m.lookup(&k.to_le_bytes()) {
                                    // The element may have been recycled since, but its
                                    // value is always one that some thread put.
                                    let v = m.values().load(at, 8).unwrap();
                                    assert!(v >> 32 < 24 && v & 0xffff_ffff < 4, "{v:x}");
                                }
                            }
                        }
                    }
                });
            }
        });
        let keys = m.keys();
        assert_eq!(keys.len(), m.len());
        for k in keys {
            let k = u32::from_le_bytes(k.try_into().unwrap());
            assert_eq!(get(&m, k).unwrap() >> 32, u64::from(k), "under its own key");
            m.delete(&k.to_le_bytes()).unwrap();
        }
        assert_eq!(m.len(), 0);
        for k in 0..16 {
            put(&m, 1000 + k, 0, Exists::Either).expect("every element came back");
        }
    }
}
