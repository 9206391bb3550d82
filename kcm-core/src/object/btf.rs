//! BTF, the type and line information in `.BTF` and `.BTF.ext`
//! (<https://docs.kernel.org/bpf/btf.html>): strings, the types that map definitions are
//! written in, and line records. Everything else in there is for kernels.
//!
//! CO-RE relocations are left alone on purpose: what a program here may read (the context, its
//! own data) is the same everywhere, as the compiler laid it out.

use super::LoadError;
use super::elf::name_at;

/// What the file calls them.
const TYPES: &str = "section `.BTF`";
const EXT: &str = "section `.BTF.ext`";

fn bad<T>(part: &str, problem: impl Into<String>) -> Result<T, LoadError> {
    Err(LoadError::malformed(part, problem))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*b))
}

/// The part of a section that a pair of header fields names.
fn part(bytes: &[u8], header: u32, offset: u32, length: u32) -> Option<&[u8]> {
    let start = (header as usize).checked_add(offset as usize)?;
    bytes.get(start..start.checked_add(length as usize)?)
}

/// Checks the eight bytes that both sections start with; gives the header's length.
fn header(bytes: &[u8], section: &str, least: u32) -> Result<u32, LoadError> {
    match bytes.first_chunk::<4>() {
        Some([0x9f, 0xeb, 1, _]) => {}
        Some([0xeb, 0x9f, ..]) => return bad(section, "it is big-endian"),
        Some([0x9f, 0xeb, version, _]) => {
            return bad(section, format!("its version is {version}, known is 1"));
        }
        _ => return bad(section, "it does not start with BTF's magic number"),
    }
    match u32_at(bytes, 4) {
        Some(length) if length >= least && length as usize <= bytes.len() => Ok(length),
        _ => bad(section, "its header has an impossible length"),
    }
}

/// The `.BTF` section.
pub(super) struct Btf<'a> {
    types: &'a [u8],
    pub(super) strings: &'a [u8],
}

impl<'a> Btf<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, LoadError> {
        let length = header(bytes, TYPES, 24)?;
        let field = |i: usize| u32_at(bytes, 8 + 4 * i).unwrap_or(0);
        let Some(types) = part(bytes, length, field(0), field(1)) else {
            return bad(TYPES, "its types reach beyond its end");
        };
        let Some(strings) = part(bytes, length, field(2), field(3)) else {
            return bad(TYPES, "its strings reach beyond its end");
        };
        Ok(Btf { types, strings })
    }

    fn name(&self, offset: u32) -> Result<&'a str, LoadError> {
        match name_at(self.strings, offset) {
            Some(name) => Ok(name),
            None => bad(TYPES, format!("there is no string at {offset}")),
        }
    }

    /// Reads the types; needed only where maps are defined in BTF.
    pub(super) fn types(&self) -> Result<Types<'a>, LoadError> {
        let mut list = Vec::new();
        let mut rest = self.types;
        while !rest.is_empty() {
            let id = list.len() + 1;
            let (Some(name), Some(info), Some(size_or_type)) =
                (u32_at(rest, 0), u32_at(rest, 4), u32_at(rest, 8))
            else {
                return bad(TYPES, format!("type {id} is cut off"));
            };
            let count = (info & 0xffff) as usize;
            let kind = info >> 24 & 0x1f;
            let extra = match kind {
                INT | VAR | DECL_TAG => 4,
                ARRAY => 12,
                STRUCT | UNION | DATASEC | ENUM64 => 12 * count,
                ENUM | FUNC_PROTO => 8 * count,
                PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => 0,
                _ => return bad(TYPES, format!("type {id} is of unknown kind {kind}")),
            };
            let Some((extra, after)) = rest.get(12..).and_then(|r| r.split_at_checked(extra))
            else {
                return bad(TYPES, format!("type {id} is cut off"));
            };
            list.push(Type { name, kind, size_or_type, extra });
            rest = after;
        }
        Ok(Types { btf: Btf { types: self.types, strings: self.strings }, list })
    }
}

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// How many types may stand one behind another; the kernel's number.
const DEPTH: usize = 32;

#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    size_or_type: u32,
    /// What follows the three words that all types have.
    extra: &'a [u8],
}

impl Type<'_> {
    /// A word behind the three that all types have.
    fn word(&self, i: usize) -> u32 {
        u32_at(self.extra, 4 * i).unwrap_or(0)
    }
}

/// The numbers in a map definition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MapNumbers {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// The types of a `.BTF` section.
pub(super) struct Types<'a> {
    btf: Btf<'a>,
    list: Vec<Type<'a>>,
}

impl<'a> Types<'a> {
    fn get(&self, id: u32) -> Result<Type<'a>, LoadError> {
        // Type 0 is `void` and not in the list.
        match (id as usize).checked_sub(1).and_then(|i| self.list.get(i)) {
            Some(ty) => Ok(*ty),
            None => bad(TYPES, format!("there is no type {id}")),
        }
    }

    /// The type behind names and qualifiers.
    fn resolve(&self, mut id: u32) -> Result<Type<'a>, LoadError> {
        for _ in 0..DEPTH {
            let ty = self.get(id)?;
            match ty.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = ty.size_or_type,
                _ => return Ok(ty),
            }
        }
        bad(TYPES, format!("type {id} stands behind more than {DEPTH} others"))
    }

    /// Bytes of a value of the type.
    fn size(&self, id: u32) -> Result<u32, LoadError> {
        let (mut id, mut times) = (id, 1u32);
        for _ in 0..DEPTH {
            let ty = self.resolve(id)?;
            let size = match ty.kind {
                INT | STRUCT | UNION | ENUM | ENUM64 | FLOAT | DATASEC => ty.size_or_type,
                PTR => 8,
                ARRAY => {
                    id = ty.word(0);
                    match times.checked_mul(ty.word(2)) {
                        Some(n) => times = n,
                        None => break,
                    }
                    continue;
                }
                _ => return bad(TYPES, format!("type {id} has no size")),
            };
            match times.checked_mul(size) {
                Some(size) => return Ok(size),
                None => break,
            }
        }
        bad(TYPES, format!("type {id} is larger than 4 GiB, or never ends"))
    }

    /// A number that a map definition writes as the length of an array behind a pointer.
    fn number(&self, id: u32) -> Result<u32, LoadError> {
        let pointer = self.resolve(id)?;
        if pointer.kind == PTR {
            let array = self.resolve(pointer.size_or_type)?;
            if array.kind == ARRAY {
                return Ok(array.word(2));
            }
        }
        bad(TYPES, format!("type {id} should be a pointer to an array, to stand for a number"))
    }

    /// The size of what a pointer points to.
    fn pointee_size(&self, id: u32) -> Result<u32, LoadError> {
        let pointer = self.resolve(id)?;
        match pointer.kind {
            PTR => self.size(pointer.size_or_type),
            _ => bad(TYPES, format!("type {id} should be a pointer to a key or value")),
        }
    }

    /// The definitions of the maps in a section, by the names of their variables.
    pub(super) fn maps(&self, section: &str) -> Result<Vec<(String, MapNumbers)>, LoadError> {
        let mut maps = Vec::new();
        for datasec in self.list.iter().filter(|ty| ty.kind == DATASEC) {
            if self.btf.name(datasec.name)? != section {
                continue;
            }
            for i in 0..datasec.extra.len() / 12 {
                let variable = self.get(datasec.word(3 * i))?;
                if variable.kind != VAR {
                    return bad(TYPES, format!("{section} holds something that is no variable"));
                }
                if maps.len() >= super::limits::MAPS {
                    return Err(LoadError::too_many(
                        format!("maps in section `{section}`"),
                        maps.len() + 1,
                        super::limits::MAPS,
                    ));
                }
                let name = self.btf.name(variable.name)?;
                maps.push((name.to_owned(), self.map(name, variable.size_or_type)?));
            }
        }
        Ok(maps)
    }

    fn map(&self, name: &str, id: u32) -> Result<MapNumbers, LoadError> {
        let ty = self.resolve(id)?;
        if ty.kind != STRUCT {
            let problem = "its definition is no structure; see libbpf's `__uint` and `__type`";
            return Err(LoadError::Map { name: name.to_owned(), problem: problem.to_owned() });
        }
        let mut numbers = MapNumbers::default();
        for i in 0..ty.extra.len() / 12 {
            let (name, ty) = (ty.word(3 * i), ty.word(3 * i + 1));
            match self.btf.name(name)? {
                "type" => numbers.kind = self.number(ty)?,
                "key_size" => numbers.key_size = self.number(ty)?,
                "value_size" => numbers.value_size = self.number(ty)?,
                "key" => numbers.key_size = self.pointee_size(ty)?,
                "value" => numbers.value_size = self.pointee_size(ty)?,
                "max_entries" => numbers.max_entries = self.number(ty)?,
                "map_flags" => numbers.flags = self.number(ty)?,
                // Pinning, extra words, inner maps, NUMA nodes: nothing here depends on them,
                // and a map type that needs them is refused by its number.
                _ => {}
            }
        }
        Ok(numbers)
    }
}

/// A line record: the instructions from `slot` on come from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineRecord {
    /// Instruction slot in its section.
    pub(super) slot: usize,
    /// Where in the strings its file name starts.
    pub(super) file: u32,
    /// Where in the strings its text starts.
    pub(super) text: u32,
    /// 1-based line.
    pub(super) line: u32,
    /// 1-based column, 0 if unknown.
    pub(super) column: u32,
}

/// The line records of a `.BTF.ext` section, each list with the name of its code section and
/// by ascending slot. `sections` is how many sections there can be.
pub(super) fn lines(
    bytes: &[u8],
    strings: &[u8],
    sections: usize,
) -> Result<Vec<(String, Vec<LineRecord>)>, LoadError> {
    let length = header(bytes, EXT, 24)?;
    let field = |i: usize| u32_at(bytes, 8 + 4 * i).unwrap_or(0);
    let Some(info) = part(bytes, length, field(2), field(3)) else {
        return bad(EXT, "its line information reaches beyond its end");
    };
    if info.is_empty() {
        return Ok(Vec::new());
    }
    let size = u32_at(info, 0).unwrap_or(0) as usize;
    if size < 16 || !size.is_multiple_of(4) {
        return bad(EXT, format!("its line records have {size} bytes, at least 16 are needed"));
    }
    let mut rest = info.get(4..).unwrap_or_default();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (Some(name), Some(count)) = (u32_at(rest, 0), u32_at(rest, 4)) else {
            return bad(EXT, "its line information is cut off");
        };
        if out.len() >= sections {
            return bad(EXT, "it has line information for more sections than there are");
        }
        let Some(name) = name_at(strings, name) else {
            return bad(EXT, format!("there is no string at {name}"));
        };
        let records = (count as usize)
            .checked_mul(size)
            .and_then(|bytes| rest.get(8..).and_then(|r| r.split_at_checked(bytes)));
        let Some((records, after)) = records else {
            return bad(EXT, format!("the line information of section `{name}` is cut off"));
        };
        let mut list = Vec::with_capacity(records.len() / size);
        for r in records.chunks_exact(size) {
            let word = |i: usize| u32_at(r, 4 * i).unwrap_or(0);
            if word(0) % 8 != 0 {
                let problem = format!(
                    "a line of section `{name}` starts inside an instruction, at byte {}",
                    word(0)
                );
                return bad(EXT, problem);
            }
            list.push(LineRecord {
                slot: (word(0) / 8) as usize,
                file: word(1),
                text: word(2),
                line: word(3) >> 10,
                column: word(3) & 0x3ff,
            });
        }
        list.sort_by_key(|l| l.slot);
        out.push((name.to_owned(), list));
        rest = after;
    }
    Ok(out)
}
