//! Map definitions: those in BTF (`.maps`), those from before it (`maps`), and the data
//! sections, which are arrays of one value.

use std::collections::BTreeMap;

use object::elf;

use super::btf::Btf;
use super::elf::{Elf, Place, Symbol};
use super::{LoadError, limits};
use crate::bpf::map::MapDef;

/// BPF_MAP_TYPE_ARRAY.
const ARRAY: u32 = 2;
/// BPF_F_RDONLY_PROG.
const RDONLY_PROG: u32 = 1 << 7;

/// The maps of an object, and where in the file each is.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) defs: Vec<MapDef>,
    /// From section and offset of the definition.
    pub(super) at: BTreeMap<(usize, u64), usize>,
    /// From section, for data sections.
    pub(super) data: BTreeMap<usize, usize>,
}

impl Maps {
    pub(super) fn read(elf: &Elf<'_>, btf: Option<&Btf<'_>>) -> Result<Self, LoadError> {
        let mut maps = Maps::default();
        for (i, section) in elf.sections.iter().enumerate() {
            match section.name.as_str() {
                ".maps" => maps.add_btf(elf, i, btf)?,
                name if name == "maps" || name.starts_with("maps/") => maps.add_legacy(elf, i)?,
                name if is_data(name) && section.size > 0 => maps.add_data(elf, i)?,
                _ => {}
            }
        }
        Ok(maps)
    }

    fn push(&mut self, def: MapDef) -> Result<usize, LoadError> {
        if self.defs.len() >= limits::MAPS {
            return Err(LoadError::too_many(
                "maps in the object",
                self.defs.len() + 1,
                limits::MAPS,
            ));
        }
        self.defs.push(def);
        Ok(self.defs.len() - 1)
    }

    fn add_data(&mut self, elf: &Elf<'_>, index: usize) -> Result<(), LoadError> {
        let section = &elf.sections[index];
        let bytes = usize::try_from(section.size).unwrap_or(usize::MAX);
        if bytes > limits::DATA_BYTES {
            let what = format!("bytes of section `{}`", section.name);
            return Err(LoadError::too_many(what, bytes, limits::DATA_BYTES));
        }
        let map = self.push(MapDef {
            name: section.name.clone(),
            kind: ARRAY,
            key_size: 4,
            value_size: bytes as u32,
            max_entries: 1,
            flags: if section.name.starts_with(".rodata") { RDONLY_PROG } else { 0 },
            // What is not in the file starts as zeros, as every map does.
            initial: (section.kind != elf::SHT_NOBITS).then(|| section.data.to_vec()),
        })?;
        self.data.insert(index, map);
        Ok(())
    }

    fn add_btf(
        &mut self,
        elf: &Elf<'_>,
        index: usize,
        btf: Option<&Btf<'_>>,
    ) -> Result<(), LoadError> {
        let section = &elf.sections[index];
        let Some(btf) = btf else {
            return Err(LoadError::malformed(
                "section `.maps`",
                "its maps are defined in BTF, which the object does not have: compile with -g, and strip no section .BTF",
            ));
        };
        let symbols: BTreeMap<&str, Symbol> = map_symbols(elf, index)?.into_iter().collect();
        for (name, n) in btf.types()?.maps(&section.name)? {
            let Some(symbol) = symbols.get(name.as_str()) else {
                let problem = "the symbol table does not have it".to_owned();
                return Err(LoadError::Map { name, problem });
            };
            let map = self.push(MapDef {
                name,
                kind: n.kind,
                key_size: n.key_size,
                value_size: n.value_size,
                max_entries: n.max_entries,
                flags: n.flags,
                initial: None,
            })?;
            self.at.insert((index, symbol.value), map);
        }
        Ok(())
    }

    fn add_legacy(&mut self, elf: &Elf<'_>, index: usize) -> Result<(), LoadError> {
        let section = &elf.sections[index];
        for (name, symbol) in map_symbols(elf, index)? {
            let words = usize::try_from(symbol.value)
                .ok()
                .and_then(|at| section.data.get(at..))
                .and_then(|bytes| bytes.first_chunk::<20>())
                .filter(|_| symbol.size == 0 || symbol.size >= 20);
            let Some(words) = words else {
                let problem = format!(
                    "a definition in section `{}` has at least 20 bytes: type, key size, value size, entries, flags",
                    section.name
                );
                return Err(LoadError::Map { name: name.to_owned(), problem });
            };
            let word = |i: usize| {
                let [a, b, c, d] =
                    [words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]];
                u32::from_le_bytes([a, b, c, d])
            };
            let map = self.push(MapDef {
                name: name.to_owned(),
                kind: word(0),
                key_size: word(1),
                value_size: word(2),
                max_entries: word(3),
                flags: word(4),
                initial: None,
            })?;
            if self.at.insert((index, symbol.value), map).is_some() {
                let problem = "another map is at the same place".to_owned();
                return Err(LoadError::Map { name: name.to_owned(), problem });
            }
        }
        Ok(())
    }
}

/// The variables in a section of maps, by ascending offset.
fn map_symbols<'a>(elf: &Elf<'a>, section: usize) -> Result<Vec<(&'a str, Symbol)>, LoadError> {
    let wanted = |s: &&Symbol| {
        s.place == Place::Section(section) && matches!(s.kind, elf::STT_OBJECT | elf::STT_NOTYPE)
    };
    let mut found: Vec<Symbol> = elf.symbols.iter().filter(wanted).copied().collect();
    if found.len() > limits::MAPS {
        let what = format!("maps in section `{}`", elf.sections[section].name);
        return Err(LoadError::too_many(what, found.len(), limits::MAPS));
    }
    found.sort_by_key(|s| s.value);
    found.into_iter().map(|s| Ok((elf.symbol_name(&s)?, s))).collect()
}

fn is_data(name: &str) -> bool {
    [".rodata", ".data", ".bss"].iter().any(|prefix| name.starts_with(prefix))
}
