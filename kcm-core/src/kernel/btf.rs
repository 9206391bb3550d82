//! Where the running kernel keeps strparser's notes in a socket buffer, from its type
//! information: the layout differs between versions and configurations.

use std::collections::HashMap;

/// Where the kernel publishes its types.
pub(super) const PATH: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;

/// A member of a structure: name, type, offset in bytes.
struct Member<'a> {
    name: &'a [u8],
    type_id: u32,
    offset: u32,
}

struct Types<'a> {
    data: &'a [u8],
    strings: &'a [u8],
    /// Where each type starts in `data`; number 0 is `void`.
    starts: Vec<u32>,
    structs: HashMap<&'a [u8], u32>,
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*data.get(at..)?.first_chunk()?))
}

fn text(strings: &[u8], at: u32) -> &[u8] {
    let rest = strings.get(at as usize..).unwrap_or_default();
    rest.split(|b| *b == 0).next().unwrap_or_default()
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;

impl<'a> Types<'a> {
    fn read(bytes: &'a [u8], wanted: &[&[u8]]) -> Option<Self> {
        if u16::from_ne_bytes(*bytes.first_chunk()?) != MAGIC {
            return None;
        }
        let head = word(bytes, 4)? as usize;
        let part = |at: usize| {
            let start = head.checked_add(word(bytes, at)? as usize)?;
            bytes.get(start..start.checked_add(word(bytes, at + 4)? as usize)?)
        };
        let (data, strings) = (part(8)?, part(16)?);
        let mut starts = vec![0];
        let mut structs = HashMap::new();
        let mut at = 0;
        while at < data.len() {
            let info = word(data, at + 4)?;
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let more = match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                STRUCT | UNION | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                2 | 7..=12 | 16 | 18 => 0,
                _ => return None,
            };
            if kind == STRUCT {
                let name = text(strings, word(data, at)?);
                if wanted.contains(&name) {
                    structs.entry(name).or_insert(starts.len() as u32);
                }
            }
            starts.push(at as u32);
            at += 12 + more;
        }
        Some(Types { data, strings, starts, structs })
    }

    fn members(&self, type_id: u32) -> Option<Vec<Member<'a>>> {
        let at = *self.starts.get(type_id as usize).filter(|_| type_id > 0)? as usize;
        let info = word(self.data, at + 4)?;
        if !matches!((info >> 24) & 0x1f, STRUCT | UNION) {
            return None;
        }
        // With bit fields in the structure the upper 8 bits are a field's width.
        let mask = if info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
        (0..(info & 0xffff) as usize)
            .map(|i| {
                let m = at + 12 + 12 * i;
                Some(Member {
                    name: text(self.strings, word(self.data, m)?),
                    type_id: word(self.data, m + 4)?,
                    offset: (word(self.data, m + 8)? & mask) / 8,
                })
            })
            .collect()
    }

    /// Offset and type of a member, also inside members without a name.
    fn member(&self, type_id: u32, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        for m in self.members(type_id)? {
            if m.name == name {
                return Some((m.offset, m.type_id));
            }
            if m.name.is_empty()
                && depth < 8
                && let Some((offset, found)) = self.member(m.type_id, name, depth + 1)
            {
                return Some((m.offset + offset, found));
            }
        }
        None
    }

    fn of(&self, structure: &str, member: &str) -> Result<(u32, u32), String> {
        let missing = || format!("{PATH} has no `{member}` in `struct {structure}`");
        let id = self.structs.get(structure.as_bytes()).ok_or_else(missing)?;
        self.member(*id, member.as_bytes(), 0).ok_or_else(missing)
    }
}

/// The distance from a socket buffer to `strp_msg { full_len, offset }` in it, in bytes; or
/// what the types do not tell.
pub(super) fn strp_msg(bytes: &[u8]) -> Result<u32, String> {
    let wanted: [&[u8]; 3] = [b"sk_buff", b"sk_skb_cb", b"strp_msg"];
    let types =
        Types::read(bytes, &wanted).ok_or_else(|| format!("{PATH} is no BTF of this machine"))?;
    let (scratch, _) = types.of("sk_buff", "cb")?;
    let (notes, _) = types.of("sk_skb_cb", "strp")?;
    // `strp` is `struct _strp_msg`, which begins with the `strp_msg`.
    let (full_len, _) = types.of("strp_msg", "full_len")?;
    let (offset, _) = types.of("strp_msg", "offset")?;
    if (full_len, offset) != (0, 4) {
        return Err(format!("`struct strp_msg` has another layout here: {full_len}, {offset}"));
    }
    Ok(scratch + notes)
}
