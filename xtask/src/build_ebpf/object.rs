//! What is done to a linked BPF object: looked at, stripped, compared.

use anyhow::{Context, Result, bail};
use object::build::elf::{Builder, SectionData};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

/// A program in an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Its function's name.
    pub(super) name: String,
    /// Its section.
    pub(super) section: String,
    /// Instruction slots, called functions not counted.
    pub(super) slots: u64,
}

/// The sections that programs for KCM live in.
fn is_program_section(name: &str) -> bool {
    ["sk_skb/stream_parser", "sk_skb/stream_verdict", "socket"].iter().any(|s| name.starts_with(s))
}

/// The programs of a BPF object, by name.
pub(super) fn programs(elf: &[u8]) -> Result<Vec<Program>> {
    let file = object::File::parse(elf).context("the linker's output is no ELF file")?;
    if file.architecture() != object::Architecture::Bpf {
        bail!("the linker's output is for {:?}, not BPF", file.architecture());
    }
    let mut programs = Vec::new();
    for symbol in file.symbols() {
        if symbol.kind() != SymbolKind::Text || !symbol.is_global() {
            continue;
        }
        let Some(index) = symbol.section_index() else { continue };
        let section = file.section_by_index(index)?;
        let section = section.name()?.to_owned();
        if is_program_section(&section) {
            programs.push(Program {
                name: symbol.name()?.to_owned(),
                section,
                slots: symbol.size() / 8,
            });
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// The object without DWARF, which only debuggers read. BTF stays, with its line
/// information: it is what a verifier's message names the source line from.
pub(super) fn strip(elf: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(elf).context("the linker's output is no ELF file")?;
    let doomed: Vec<_> = builder
        .sections
        .iter()
        .filter(|s| s.name.starts_with(b".debug_") || s.name.starts_with(b".rel.debug_"))
        .map(|s| s.id())
        .collect();
    for id in doomed {
        builder.sections.get_mut(id).delete = true;
    }
    builder.delete_orphans();
    // LLVM keeps all names in one table; the writer wants those of the sections apart.
    if !builder.sections.iter().any(|s| matches!(s.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    builder.set_section_sizes();
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("could not write the stripped object")?;
    Ok(stripped)
}

/// How many bytes of an object are BTF, line information included.
pub(super) fn btf_bytes(elf: &[u8]) -> Result<usize> {
    let builder = Builder::read(elf)?;
    let btf = builder.sections.iter().filter(|s| s.name.starts_with(b".BTF"));
    Ok(btf
        .map(|s| match &s.data {
            SectionData::Data(bytes) => bytes.len(),
            _ => 0,
        })
        .sum())
}

/// What differs between two objects in what runs: code, maps, data, license. `None` if
/// nothing does; BTF and symbol tables may still differ.
pub(super) fn difference(old: &[u8], new: &[u8]) -> Result<Option<String>> {
    fn loaded(elf: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
        let file = object::File::parse(elf).context("no ELF file")?;
        let mut sections = Vec::new();
        for section in file.sections() {
            let name = section.name()?;
            let runs = matches!(
                section.kind(),
                SectionKind::Text | SectionKind::Data | SectionKind::ReadOnlyData
            ) || name == "maps"
                || name == ".maps";
            if runs && !name.starts_with(".debug") {
                sections.push((name.to_owned(), section.data()?.to_vec()));
            }
        }
        sections.sort();
        Ok(sections)
    }
    let (old_programs, new_programs) = (programs(old)?, programs(new)?);
    if old_programs != new_programs {
        return Ok(Some(format!("programs: {old_programs:?} became {new_programs:?}")));
    }
    let (old, new) = (loaded(old)?, loaded(new)?);
    let names = |s: &[(String, Vec<u8>)]| s.iter().map(|s| s.0.clone()).collect::<Vec<_>>();
    if names(&old) != names(&new) {
        return Ok(Some(format!("sections: {:?} became {:?}", names(&old), names(&new))));
    }
    let changed = old.iter().zip(&new).find(|(a, b)| a.1 != b.1);
    Ok(changed.map(|(a, _)| format!("section {} has other contents", a.0)))
}
