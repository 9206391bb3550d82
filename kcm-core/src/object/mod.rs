//! BPF object files: from bytes that anyone may have written to linked programs.
//!
//! [`Object::parse`] reads a little-endian BPF ELF file, as `cargo xtask build-ebpf` (Rust) and
//! `clang -target bpf -c` (C) write it; [`Object::program`] links one program of it. Neither
//! asks a kernel or keeps anything between calls, and the same bytes give the same result.
//! Whatever the bytes are, the answer is a program or a [`LoadError`], in time and memory
//! bounded by [`limits`].
//!
//! # What an object may hold
//!
//! - **Programs**: global functions in sections `sk_skb/stream_parser…` (also plain `sk_skb`)
//!   and `socket…` (the kernel documentation's `socket_kcm` among them).
//!   `sk_skb/stream_parser/kernel` and `sk_skb/…verdict…` are for the kernel engine. Programs of other kinds are no hindrance and cannot be asked for.
//! - **Functions**: those in `.text` and `static` ones anywhere, linked behind the programs that
//!   call them; also by address, as `bpf_loop` takes them.
//! - **Maps**: libbpf's and aya's definitions in BTF (`.maps`), and those from before (`maps`).
//! - **Data**: `.rodata…`, `.data…`, `.bss…`; without addresses in them.
//! - **BTF**: not needed, except for maps that are defined in it. With it, messages name source
//!   lines.
//!
//! Linking is done here and not by aya-obj, which reads honest objects alike: it takes a
//! reference to what does not exist for the number 0, one `static` map for another, one callee
//! for another at the same offset of a second section, knows no `socket_kcm`, and panics or
//! allocates without limit on hostile files. A test holds both to the same result on honest
//! ones.
#![forbid(unsafe_code)]

mod btf;
mod elf;
mod error;
pub mod limits;
mod link;
mod maps;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ::object::elf::{STT_FUNC, STT_OBJECT};

use crate::bpf::insn::Insn;
use crate::bpf::map::MapDef;
use crate::bpf::program::{Program, ProgramKind};
use elf::{Elf, Place, Relocation, Symbol};

pub use error::{LoadError, Site};

/// A BPF object file, read and checked, its programs not yet linked or verified. Cheap to
/// clone.
#[derive(Clone, Debug)]
pub struct Object {
    contents: Arc<Contents>,
}

/// A program in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProgramInfo<'a> {
    /// Its function's name; what [`Object::program`] takes.
    pub name: &'a str,
    /// What its section says it is.
    pub kind: ProgramKind,
    /// Its section.
    pub section: &'a str,
}

impl Object {
    /// Reads an object file.
    ///
    /// # Errors
    /// [`LoadError::Io`], [`LoadError::TooLarge`], and those of [`parse`](Self::parse).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let failed = |e: std::io::Error| LoadError::Io {
            path: path.to_owned(),
            kind: e.kind(),
            code: e.raw_os_error(),
            message: e.to_string(),
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        // A pipe or a device has no length to ask for: one byte too many is what tells.
        let mut bytes = Vec::new();
        let limit = limits::OBJECT_BYTES as u64;
        std::io::Read::read_to_end(&mut std::io::Read::take(file, limit + 1), &mut bytes)
            .map_err(failed)?;
        if bytes.len() as u64 > limit {
            let size = std::fs::metadata(path).map_or(0, |m| m.len()).max(limit + 1);
            return Err(LoadError::TooLarge { bytes: size, limit });
        }
        Self::parse(&bytes)
    }

    /// Reads an object from the bytes of its file, at any alignment.
    ///
    /// # Errors
    /// Everything but [`LoadError::Io`] and what only [`program`](Self::program) finds.
    pub fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        Ok(Object { contents: Arc::new(Contents::read(bytes)?) })
    }

    /// The programs, in the order of the file.
    pub fn programs(&self) -> impl Iterator<Item = ProgramInfo<'_>> {
        let contents = &*self.contents;
        contents.programs.iter().map(|(function, kind)| {
            let f = &contents.functions[*function];
            ProgramInfo { name: &f.name, kind: *kind, section: &contents.code[f.section].name }
        })
    }

    /// The maps and data sections, used by a program or not.
    pub fn maps(&self) -> &[MapDef] {
        &self.contents.maps
    }

    /// The license that the object's author gave it, or `""`. Nothing in process depends on
    /// it; a kernel allows some helpers to GPL-compatible programs only.
    pub fn license(&self) -> &str {
        &self.contents.license
    }

    /// Gives a global variable of the object another first value, before programs of it are
    /// linked: `const volatile` in C, `Global` in aya. Clones made earlier keep theirs.
    ///
    /// The variable must have as many bytes as `value`, in the byte order of the object
    /// (little-endian). In `.rodata` it is a constant that the verifier knows: code that it
    /// switches off costs nothing.
    ///
    /// # Errors
    /// [`LoadError::Global`] where there is none of that name, or of another size.
    pub fn set_global(&mut self, name: &str, value: &[u8]) -> Result<(), LoadError> {
        let found = self.contents.global(name).ok_or_else(|| LoadError::Global {
            name: name.to_owned(),
            problem: "the object has no such variable in a data section".to_owned(),
        })?;
        if found.size != value.len() {
            return Err(LoadError::Global {
                name: name.to_owned(),
                problem: format!("it has {} bytes, {} were given", found.size, value.len()),
            });
        }
        let map = &mut Arc::make_mut(&mut self.contents).maps[found.map];
        let data = map.initial.get_or_insert_with(|| vec![0; map.value_size as usize]);
        if let Some(bytes) = data.get_mut(found.offset..found.offset + found.size) {
            bytes.copy_from_slice(value);
        }
        Ok(())
    }

    /// Whether the object has a global variable of that name, of `size` bytes.
    pub fn has_global(&self, name: &str, size: usize) -> bool {
        self.contents.global(name).is_some_and(|found| found.size == size)
    }

    /// Links a program: its instructions, those of the functions it calls, its maps.
    ///
    /// `name` is the name of its function, or, where that tells which one is meant, that of
    /// its section, or what stands behind the last `/` of its section.
    ///
    /// # Errors
    /// [`LoadError::UnknownProgram`], which lists those that there are,
    /// [`LoadError::AmbiguousProgram`], [`LoadError::NotAParser`]; and what keeps the program
    /// from being linked: [`LoadError::UndefinedSymbol`], [`LoadError::Relocation`],
    /// [`LoadError::Reference`], [`LoadError::TooMany`].
    pub fn program(&self, name: &str) -> Result<Program, LoadError> {
        let contents = &*self.contents;
        let (function, kind) = contents.find(name)?;
        link::link(contents, function, kind)
    }
}

/// A variable in a data section.
struct Global {
    /// Index in [`Contents::maps`].
    map: usize,
    offset: usize,
    size: usize,
}

/// What was read.
#[derive(Clone, Debug)]
struct Contents {
    license: String,
    /// Functions that are programs.
    programs: Vec<(usize, ProgramKind)>,
    /// By section and start.
    functions: Vec<Function>,
    code: Vec<Code>,
    /// Per section of the file.
    roles: Vec<Section>,
    symbols: Vec<Symbol>,
    symbol_strings: Vec<u8>,
    btf_strings: Vec<u8>,
    maps: Vec<MapDef>,
    /// Maps from section and offset of their definitions.
    maps_at: BTreeMap<(usize, u64), usize>,
}

/// A section with code.
#[derive(Clone, Debug)]
struct Code {
    name: String,
    insns: Vec<Insn>,
    relocations: Vec<Relocation>,
    lines: Vec<btf::LineRecord>,
}

/// A function: `start..end` are slots of its section.
#[derive(Clone, Debug)]
struct Function {
    name: String,
    /// Index in [`Contents::code`].
    section: usize,
    start: usize,
    end: usize,
    local: bool,
}

/// What a section of the file is for.
#[derive(Clone, Debug)]
struct Section {
    name: String,
    role: Role,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    /// Index in [`Contents::code`].
    Code(usize),
    /// Map definitions.
    Maps,
    /// Index in [`Contents::maps`].
    Data {
        map: usize,
        relocated: bool,
    },
    Other,
}

/// What programs in a section of that name are.
fn kind_of(section: &str) -> Option<ProgramKind> {
    // libbpf's mark for "do not load unless asked".
    let section = section.strip_prefix('?').unwrap_or(section);
    if section.starts_with("socket") {
        Some(ProgramKind::SocketFilter)
    } else if section == kcm_common::kernel::PARSER_SECTION {
        Some(ProgramKind::KernelParser)
    } else if section == "sk_skb" || section.starts_with("sk_skb/stream_parser") {
        Some(ProgramKind::StreamParser)
    } else if section.starts_with("sk_skb/stream_verdict") || section.starts_with("sk_skb/verdict")
    {
        Some(ProgramKind::StreamVerdict)
    } else {
        None
    }
}

impl Contents {
    fn read(bytes: &[u8]) -> Result<Self, LoadError> {
        let elf = Elf::parse(bytes)?;
        let btf = elf.section(".BTF").map(|s| btf::Btf::parse(s.data)).transpose()?;
        let maps = maps::Maps::read(&elf, btf.as_ref())?;
        let btf_strings = btf.map(|btf| btf.strings).unwrap_or_default();

        let mut code = Vec::new();
        let mut code_at = BTreeMap::new();
        for (i, section) in elf.sections.iter().enumerate().filter(|(_, s)| s.is_code()) {
            let (slots, rest) = section.data.as_chunks::<8>();
            if !rest.is_empty() {
                return Err(LoadError::malformed(
                    format!("section `{}`", section.name),
                    format!("its {} bytes of code are no whole instructions", section.data.len()),
                ));
            }
            code_at.insert(i, code.len());
            code.push(Code {
                name: section.name.clone(),
                insns: slots.iter().map(|b| Insn::from_bytes(*b)).collect(),
                relocations: elf.relocations[i].clone(),
                lines: Vec::new(),
            });
        }
        if let Some(ext) = elf.section(".BTF.ext") {
            for (name, lines) in btf::lines(ext.data, btf_strings, elf.sections.len())? {
                if let Some(code) = code.iter_mut().find(|c| c.name == name && c.lines.is_empty()) {
                    code.lines = lines;
                }
            }
        }
        let functions = functions(&elf, &code, &code_at)?;
        let programs = functions.iter().enumerate().filter(|(_, f)| !f.local);
        let programs = programs.filter_map(|(i, f)| Some((i, kind_of(&code[f.section].name)?)));
        let programs: Vec<_> = programs.collect();
        if programs.is_empty() {
            let sections = code.iter().map(|c| c.name.clone()).collect();
            return Err(LoadError::NoPrograms { sections });
        }
        let role = |i: usize, s: &elf::Section<'_>| match (code_at.get(&i), maps.data.get(&i)) {
            (Some(code), _) => Role::Code(*code),
            (_, Some(map)) => Role::Data { map: *map, relocated: s.relocated },
            _ if s.name == ".maps" || s.name == "maps" || s.name.starts_with("maps/") => Role::Maps,
            _ => Role::Other,
        };
        let roles = elf.sections.iter().enumerate();
        let roles = roles.map(|(i, s)| Section { name: s.name.clone(), role: role(i, s) });
        Ok(Contents {
            license: license(&elf)?,
            programs,
            functions,
            code,
            roles: roles.collect(),
            symbols: elf.symbols.clone(),
            symbol_strings: elf.strings.to_vec(),
            btf_strings: btf_strings.to_vec(),
            maps: maps.defs,
            maps_at: maps.at,
        })
    }

    /// The variable of that name in a data section, wholly inside it.
    fn global(&self, name: &str) -> Option<Global> {
        let candidates = self.symbols.iter().filter(|s| s.kind == STT_OBJECT && !s.local);
        candidates.filter(|s| elf::name_at(&self.symbol_strings, s.name) == Some(name)).find_map(
            |s| {
                let Place::Section(section) = s.place else { return None };
                let Role::Data { map, relocated: false } = self.roles[section].role else {
                    return None;
                };
                let offset = usize::try_from(s.value).ok()?;
                let size = usize::try_from(s.size).ok()?;
                let inside = offset.checked_add(size)? <= self.maps[map].value_size as usize;
                inside.then_some(Global { map, offset, size })
            },
        )
    }

    /// The programs that are for the process.
    fn parsers(&self) -> Vec<(usize, ProgramKind)> {
        self.programs.iter().filter(|(_, kind)| kind.is_parser()).copied().collect()
    }

    /// The program that a name means.
    fn find(&self, name: &str) -> Result<(usize, ProgramKind), LoadError> {
        let section = |f: usize| self.code[self.functions[f].section].name.as_str();
        let by = |matches: &dyn Fn(usize) -> bool| -> Vec<(usize, ProgramKind)> {
            self.programs.iter().filter(|(f, _)| matches(*f)).copied().collect()
        };
        let names = |found: &[(usize, ProgramKind)]| -> Vec<String> {
            found.iter().map(|(f, _)| self.functions[*f].name.clone()).collect()
        };
        let suffix = |f: usize| section(f).rsplit_once('/').map(|(_, suffix)| suffix);
        let mut found = by(&|f| self.functions[f].name == name);
        if found.is_empty() {
            if let Some(f) = self.functions.iter().find(|f| f.name == name && !name.is_empty()) {
                let section = self.code[f.section].name.clone();
                return Err(LoadError::NotAParser { name: name.to_owned(), section });
            }
            found = by(&|f| section(f) == name || suffix(f) == Some(name));
        }
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(LoadError::UnknownProgram {
                name: name.to_owned(),
                available: names(&self.parsers()),
            }),
            several => Err(LoadError::AmbiguousProgram {
                name: name.to_owned(),
                candidates: names(several),
            }),
        }
    }
}

/// The functions of all sections with code, by section and start.
fn functions(
    elf: &Elf<'_>,
    code: &[Code],
    code_at: &BTreeMap<usize, usize>,
) -> Result<Vec<Function>, LoadError> {
    let mut found: Vec<(usize, u64, &Symbol)> = Vec::new();
    for symbol in elf.symbols.iter().filter(|s| s.kind == STT_FUNC) {
        if let Place::Section(section) = symbol.place
            && let Some(section) = code_at.get(&section)
        {
            found.push((*section, symbol.value, symbol));
        }
    }
    if found.len() > limits::FUNCTIONS {
        return Err(LoadError::too_many("functions in the object", found.len(), limits::FUNCTIONS));
    }
    // Of several names for one place a global one counts: it may be a program's.
    found.sort_by_key(|(section, start, s)| (*section, *start, s.local, s.name));
    found.dedup_by_key(|(section, start, _)| (*section, *start));
    let mut functions: Vec<Function> = Vec::with_capacity(found.len());
    for (i, (section, start, symbol)) in found.iter().enumerate() {
        let name = elf.symbol_name(symbol)?;
        let code = &code[*section];
        let bad = |problem: String| {
            Err(LoadError::malformed(
                format!("function `{name}` in section `{}`", code.name),
                problem,
            ))
        };
        let all = code.insns.len() as u64 * 8;
        let next = found.get(i + 1).filter(|next| next.0 == *section).map_or(all, |next| next.1);
        // Hand-written assembly may say no size: then it reaches to the next function.
        let end = match symbol.size {
            0 => next,
            size => start.saturating_add(size),
        };
        if *start >= end || end > all {
            return bad(format!("it reaches from byte {start} to {end} of {all}"));
        }
        if start % 8 != 0 || end % 8 != 0 {
            return bad("it does not start and end with whole instructions".to_owned());
        }
        if end > next {
            return bad(format!("it ends at byte {end}, but another function starts at {next}"));
        }
        functions.push(Function {
            name: name.to_owned(),
            section: *section,
            start: (*start / 8) as usize,
            end: (end / 8) as usize,
            local: symbol.local,
        });
    }
    Ok(functions)
}

fn license(elf: &Elf<'_>) -> Result<String, LoadError> {
    let Some(section) = elf.section("license") else { return Ok(String::new()) };
    let end = section.data.iter().position(|b| *b == 0).unwrap_or(section.data.len());
    let text = section.data.get(..end).unwrap_or_default();
    match std::str::from_utf8(text) {
        Ok(text) if text.len() <= limits::LICENSE_BYTES => Ok(text.to_owned()),
        _ => Err(LoadError::malformed(
            "section `license`",
            format!("it is no text of at most {} bytes that ends with a 0", limits::LICENSE_BYTES),
        )),
    }
}
