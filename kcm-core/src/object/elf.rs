//! The ELF file, checked: whatever is out of this module is inside the file, in range and in
//! order. Reading is the `object` crate's, what is wrong with the file is said here.

use object::LittleEndian;
use object::elf;
use object::read::elf::{FileHeader as _, Rel as _, SectionHeader as _};

use super::LoadError;
use super::limits;

const LE: LittleEndian = LittleEndian;
type Header = elf::FileHeader64<LittleEndian>;
type SectionHeader = elf::SectionHeader64<LittleEndian>;

/// A section of the file.
pub(super) struct Section<'a> {
    pub(super) name: String,
    /// SHT_*
    pub(super) kind: u32,
    /// SHF_*
    pub(super) flags: u64,
    /// Bytes in memory: those of a NOBITS section are not in the file.
    pub(super) size: u64,
    /// Bytes in the file.
    pub(super) data: &'a [u8],
    /// Whether a linker should write addresses into it.
    pub(super) relocated: bool,
}

impl Section<'_> {
    /// Whether it holds instructions.
    pub(super) fn is_code(&self) -> bool {
        self.kind == elf::SHT_PROGBITS
            && self.flags & u64::from(elf::SHF_EXECINSTR) != 0
            && self.size > 0
    }
}

/// Where a symbol is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Undefined,
    /// SHN_ABS, SHN_COMMON and other reserved numbers.
    Nowhere,
    /// In the section with this index.
    Section(usize),
}

/// A symbol of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// Offset in the string table.
    pub(super) name: u32,
    pub(super) place: Place,
    pub(super) value: u64,
    pub(super) size: u64,
    /// STT_*
    pub(super) kind: u8,
    /// STB_LOCAL: `static` in C.
    pub(super) local: bool,
}

/// A relocation of a section with code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Relocation {
    /// Instruction slot in its section.
    pub(super) slot: usize,
    /// R_BPF_*
    pub(super) kind: u32,
    /// Index in the symbol table.
    pub(super) symbol: usize,
}

/// The file.
pub(super) struct Elf<'a> {
    pub(super) sections: Vec<Section<'a>>,
    pub(super) symbols: Vec<Symbol>,
    /// The symbols' names.
    pub(super) strings: &'a [u8],
    /// Per section: relocations by ascending slot. Only sections with code have any.
    pub(super) relocations: Vec<Vec<Relocation>>,
}

impl<'a> Elf<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, LoadError> {
        identify(bytes)?;
        let header = Header::parse(bytes).map_err(|e| header_error(&e))?;
        let (headers, names) = section_headers(header, bytes)?;
        let sections = sections(headers, names, bytes)?;
        no_overlaps(headers, &sections)?;
        let (symbols, strings) = symbols(headers, &sections)?;
        let relocations = relocations(headers, &sections, symbols.len())?;
        Ok(Elf { sections, symbols, strings, relocations })
    }

    /// A symbol's name; `""` if it has none.
    pub(super) fn symbol_name(&self, symbol: &Symbol) -> Result<&'a str, LoadError> {
        name_at(self.strings, symbol.name)
            .ok_or_else(|| LoadError::malformed("a symbol", bad_name(symbol.name)))
    }

    /// The first section of that name.
    pub(super) fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|s| s.name == name)
    }
}

fn bad_name(offset: u32) -> String {
    format!(
        "its name, at {offset} in the string table, does not end, is no UTF-8 or has more than {} bytes",
        limits::NAME_BYTES
    )
}

/// The string that starts there; `None` if it is too long or no string.
pub(super) fn name_at(strings: &[u8], offset: u32) -> Option<&str> {
    if offset == 0 && strings.is_empty() {
        return Some("");
    }
    let rest = strings.get(offset as usize..)?;
    let rest = rest.get(..=limits::NAME_BYTES).unwrap_or(rest);
    let end = rest.iter().position(|b| *b == 0)?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

fn header_error(error: &object::read::Error) -> LoadError {
    LoadError::malformed("the ELF header", error.to_string())
}

/// Whether these are the first bytes of a little-endian BPF object.
fn identify(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.len() > limits::OBJECT_BYTES {
        let limit = limits::OBJECT_BYTES as u64;
        return Err(LoadError::TooLarge { bytes: bytes.len() as u64, limit });
    }
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(LoadError::NotElf { found: looks_like(bytes) });
    }
    let size = size_of::<Header>();
    if bytes.len() < size {
        return Err(LoadError::Truncated {
            what: "the ELF header".to_owned(),
            end: size as u64,
            bytes: bytes.len() as u64,
        });
    }
    let foreign = |found: String| Err(LoadError::Foreign { found });
    match bytes[4] {
        elf::ELFCLASS64 => {}
        elf::ELFCLASS32 => {
            return foreign("it is a 32-bit file, BPF objects are 64-bit".to_owned());
        }
        class => return foreign(format!("its class {class} does not exist")),
    }
    let big = match bytes[5] {
        elf::ELFDATA2LSB => false,
        elf::ELFDATA2MSB => true,
        order => return foreign(format!("its byte order {order} does not exist")),
    };
    let half = |at: usize| {
        let b = [bytes[at], bytes[at + 1]];
        if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) }
    };
    let (kind, machine) = (half(16), half(18));
    if machine != elf::EM_BPF {
        return foreign(format!(
            "it is for machine {machine}{}; build it with `cargo xtask build-ebpf` or `clang -target bpf`",
            machine_name(machine)
        ));
    }
    if big {
        return foreign(
            "it is big-endian BPF; build for bpfel-unknown-none (`clang -target bpfel`)".to_owned(),
        );
    }
    if kind != elf::ET_REL {
        return foreign(format!("its type is {kind}, an object file's is 1 (ET_REL)"));
    }
    Ok(())
}

fn machine_name(machine: u16) -> &'static str {
    match machine {
        elf::EM_X86_64 => " (x86-64)",
        elf::EM_386 => " (x86)",
        elf::EM_AARCH64 => " (AArch64)",
        elf::EM_ARM => " (Arm)",
        elf::EM_RISCV => " (RISC-V)",
        elf::EM_S390 => " (s390)",
        elf::EM_PPC64 => " (PowerPC)",
        elf::EM_LOONGARCH => " (LoongArch)",
        elf::EM_SBF => " (Solana's variant of BPF)",
        elf::EM_NONE => " (none)",
        _ => "",
    }
}

/// What a file that is no ELF file looks like, and what to do.
fn looks_like(bytes: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if bytes.is_empty() {
        "it is empty"
    } else if elf::ELFMAG.starts_with(bytes) {
        "it ends inside the first four bytes"
    } else if starts(b"BC\xc0\xde") || starts(b"\xde\xc0\x17\x0b") {
        "it is LLVM bitcode; link it with bpf-linker (`cargo xtask build-ebpf` does)"
    } else if starts(b"!<arch>\n") || starts(b"!<thin>\n") {
        "it is a library archive; give the linked BPF object"
    } else if starts(b"\0asm") {
        "it is WebAssembly; give a BPF object"
    } else if starts(b"\x1f\x8b") || starts(b"\x28\xb5\x2f\xfd") || starts(b"PK\x03\x04") {
        "it is compressed; unpack it first"
    } else if bytes.iter().take(512).all(|b| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~')) {
        "it is text; compile it to a BPF object first"
    } else {
        "give a BPF object, as `cargo xtask build-ebpf` or `clang -target bpf -c` write it"
    }
}

/// The section table and the sections' names.
fn section_headers<'a>(
    header: &Header,
    bytes: &'a [u8],
) -> Result<(&'a [SectionHeader], &'a [u8]), LoadError> {
    let offset = header.e_shoff.get(LE);
    let part = "the section table";
    if offset == 0 {
        return Err(LoadError::malformed(part, "there is none"));
    }
    let size = usize::from(header.e_shentsize.get(LE));
    if size != size_of::<SectionHeader>() {
        return Err(LoadError::malformed(part, format!("its entries have {size} bytes, not 64")));
    }
    // The table's first entry holds the numbers that are too large for the header.
    let end_of = |n: u64| offset.saturating_add(n.saturating_mul(size as u64));
    let truncated = |n: u64| LoadError::Truncated {
        what: part.to_owned(),
        end: end_of(n),
        bytes: bytes.len() as u64,
    };
    if end_of(1) > bytes.len() as u64 {
        return Err(truncated(1.max(u64::from(header.e_shnum.get(LE)))));
    }
    let count = header.shnum(LE, bytes).map_err(|e| header_error(&e))?;
    let wanted = u64::try_from(count).unwrap_or(u64::MAX);
    if count > limits::SECTIONS {
        return Err(LoadError::too_many("sections in the object", count, limits::SECTIONS));
    }
    if end_of(wanted) > bytes.len() as u64 {
        return Err(truncated(wanted));
    }
    let headers = header.section_headers(LE, bytes).map_err(|e| header_error(&e))?;
    let index = header.shstrndx(LE, bytes).map_err(|e| header_error(&e))?;
    let names = headers
        .get(index as usize)
        .filter(|h| h.sh_type.get(LE) == elf::SHT_STRTAB)
        .ok_or_else(|| {
            LoadError::malformed(
                part,
                format!("section {index} should hold the names, and does not"),
            )
        })?;
    let names = names.data(LE, bytes).map_err(|_| LoadError::Truncated {
        what: "the section with the sections' names".to_owned(),
        end: names.sh_offset.get(LE).saturating_add(names.sh_size.get(LE)),
        bytes: bytes.len() as u64,
    })?;
    Ok((headers, names))
}

fn sections<'a>(
    headers: &[SectionHeader],
    names: &[u8],
    bytes: &'a [u8],
) -> Result<Vec<Section<'a>>, LoadError> {
    let mut sections = Vec::with_capacity(headers.len());
    for (i, h) in headers.iter().enumerate() {
        let offset = h.sh_name.get(LE);
        let name = name_at(names, offset)
            .ok_or_else(|| LoadError::malformed(format!("section {i}"), bad_name(offset)))?
            .to_owned();
        // An unused entry has no data, whatever its other fields say.
        let data = if h.sh_type.get(LE) == elf::SHT_NULL { Ok(&[][..]) } else { h.data(LE, bytes) };
        let data = data.map_err(|_| LoadError::Truncated {
            what: format!("section `{name}`"),
            end: h.sh_offset.get(LE).saturating_add(h.sh_size.get(LE)),
            bytes: bytes.len() as u64,
        })?;
        if h.sh_flags.get(LE) & u64::from(elf::SHF_COMPRESSED) != 0
            && h.sh_flags.get(LE) & u64::from(elf::SHF_ALLOC) != 0
        {
            return Err(LoadError::malformed(format!("section `{name}`"), "it is compressed"));
        }
        sections.push(Section {
            name,
            kind: h.sh_type.get(LE),
            flags: h.sh_flags.get(LE),
            size: h.sh_size.get(LE),
            data,
            relocated: false,
        });
    }
    let relocations = headers.iter().filter(|h| {
        matches!(h.sh_type.get(LE), elf::SHT_REL | elf::SHT_RELA) && h.sh_size.get(LE) > 0
    });
    for target in relocations.map(|h| h.sh_info.get(LE)) {
        if let Some(section) = sections.get_mut(target as usize) {
            section.relocated = true;
        }
    }
    Ok(sections)
}

/// No byte of the file may mean two things.
fn no_overlaps(headers: &[SectionHeader], sections: &[Section<'_>]) -> Result<(), LoadError> {
    let part = |i: usize| format!("section `{}`", sections[i].name);
    let mut ranges: Vec<(u64, u64, usize)> = headers
        .iter()
        .enumerate()
        .filter(|(i, _)| !sections[*i].data.is_empty())
        .map(|(i, h)| (h.sh_offset.get(LE), sections[i].data.len() as u64, i))
        .collect();
    ranges.sort_unstable();
    let mut before: Option<(u64, usize)> = None;
    for (start, length, i) in ranges {
        if start < size_of::<Header>() as u64 {
            let first = "the ELF header".to_owned();
            return Err(LoadError::Overlap { first, second: part(i), at: start });
        }
        if let Some((end, j)) = before
            && start < end
        {
            return Err(LoadError::Overlap { first: part(j), second: part(i), at: start });
        }
        before = Some((start + length, i));
    }
    Ok(())
}

fn symbols<'a>(
    headers: &[SectionHeader],
    sections: &[Section<'a>],
) -> Result<(Vec<Symbol>, &'a [u8]), LoadError> {
    let mut tables = (0..headers.len()).filter(|i| sections[*i].kind == elf::SHT_SYMTAB);
    let Some(table) = tables.next() else { return Ok((Vec::new(), &[])) };
    let part = "the symbol table";
    if tables.next().is_some() {
        return Err(LoadError::malformed(part, "there are several"));
    }
    let link = headers[table].sh_link.get(LE);
    let strings =
        sections.get(link as usize).filter(|s| s.kind == elf::SHT_STRTAB).ok_or_else(|| {
            LoadError::malformed(
                part,
                format!("section {link} should hold the names, and does not"),
            )
        })?;
    let data = sections[table].data;
    let entry = headers[table].sh_entsize.get(LE);
    let size = size_of::<elf::Sym64<LittleEndian>>();
    if entry != size as u64 || !data.len().is_multiple_of(size) {
        return Err(LoadError::malformed(
            part,
            format!("its {} bytes are no entries of {entry} bytes", data.len()),
        ));
    }
    let raw = object::slice_from_all_bytes::<elf::Sym64<LittleEndian>>(data)
        .map_err(|()| LoadError::malformed(part, "it is not aligned"))?;
    let mut symbols = Vec::with_capacity(raw.len());
    for (i, s) in raw.iter().enumerate() {
        let place = match s.st_shndx.get(LE) {
            elf::SHN_UNDEF => Place::Undefined,
            elf::SHN_LORESERVE.. => Place::Nowhere,
            index if usize::from(index) < sections.len() => Place::Section(usize::from(index)),
            index => {
                return Err(LoadError::malformed(
                    format!("symbol {i}"),
                    format!("it is in section {index}, of {}", sections.len()),
                ));
            }
        };
        symbols.push(Symbol {
            name: s.st_name.get(LE),
            place,
            value: s.st_value.get(LE),
            size: s.st_size.get(LE),
            kind: s.st_type(),
            local: s.st_bind() == elf::STB_LOCAL,
        });
    }
    Ok((symbols, strings.data))
}

/// The relocations of the sections with code; nobody reads those of others.
fn relocations(
    headers: &[SectionHeader],
    sections: &[Section<'_>],
    symbols: usize,
) -> Result<Vec<Vec<Relocation>>, LoadError> {
    let mut out: Vec<Vec<Relocation>> = sections.iter().map(|_| Vec::new()).collect();
    for (i, h) in headers.iter().enumerate() {
        let kind = sections[i].kind;
        if kind != elf::SHT_REL && kind != elf::SHT_RELA {
            continue;
        }
        let part = || format!("section `{}`", sections[i].name);
        let target = h.sh_info.get(LE) as usize;
        let Some(code) = sections.get(target) else {
            return Err(LoadError::malformed(
                part(),
                format!("it belongs to section {target}, which there is not"),
            ));
        };
        if !code.is_code() {
            continue;
        }
        if kind == elf::SHT_RELA {
            return Err(LoadError::malformed(part(), "BPF relocations have no addends (RELA)"));
        }
        let size = size_of::<elf::Rel64<LittleEndian>>();
        if h.sh_entsize.get(LE) != size as u64 {
            return Err(LoadError::malformed(part(), "its entries do not have 16 bytes"));
        }
        let raw = object::slice_from_all_bytes::<elf::Rel64<LittleEndian>>(sections[i].data)
            .map_err(|()| LoadError::malformed(part(), "its size is no multiple of 16"))?;
        let list = &mut out[target];
        list.reserve(raw.len());
        for r in raw {
            let offset = r.r_offset(LE);
            if offset % 8 != 0 || offset >= code.size {
                return Err(LoadError::malformed(
                    part(),
                    format!("offset {offset} is no instruction of section `{}`", code.name),
                ));
            }
            let symbol = r.r_sym(LE) as usize;
            if symbol >= symbols {
                return Err(LoadError::malformed(
                    part(),
                    format!("it names symbol {symbol}, of {symbols}"),
                ));
            }
            list.push(Relocation { slot: (offset / 8) as usize, kind: r.r_type(LE), symbol });
        }
    }
    for (i, list) in out.iter_mut().enumerate() {
        list.sort_by_key(|r| r.slot);
        if let Some(pair) = list.windows(2).find(|pair| pair[0].slot == pair[1].slot) {
            return Err(LoadError::malformed(
                format!("section `{}`", sections[i].name),
                format!("instruction {} has two relocations", pair[0].slot),
            ));
        }
    }
    Ok(out)
}
