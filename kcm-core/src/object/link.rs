//! Linking: one program, the functions it calls behind it, its maps by number.
//!
//! Functions are laid out as libbpf lays them out: the program first, each callee behind what
//! is there already when the first call of it is met, callees of callees at once. No recursion
//! and no more than [`limits::PROGRAM_INSNS`] slots, however the calls go.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::elf::{Place, Relocation, Symbol, name_at};
use super::{Contents, Function, LoadError, Role, Site, limits};
use crate::bpf::insn::Insn;
use crate::bpf::program::{Func, Line, Program, ProgramKind};

/// A 64-bit immediate, in two slots: a reference to data, a map or a function.
const LDDW: u8 = 0x18;
/// A call.
const CALL: u8 = 0x85;

/// Values of the source register that say what an immediate means.
const SRC_CALL: u8 = 1;
const SRC_MAP: u8 = 1;
const SRC_MAP_VALUE: u8 = 2;
const SRC_FUNC: u8 = 4;

/// Relocation types.
const R_64_64: u32 = 1;
const R_64_32: u32 = 10;

/// Links the program that starts with a function.
pub(super) fn link(
    object: &Contents,
    main: usize,
    kind: ProgramKind,
) -> Result<Program, LoadError> {
    let mut linker = Linker {
        object,
        insns: Vec::new(),
        funcs: Vec::new(),
        placed: BTreeMap::new(),
        maps: Vec::new(),
        map_numbers: BTreeMap::new(),
        lines: Lines {
            object,
            known: BTreeMap::new(),
            left: limits::LINES_BYTES,
            list: Vec::new(),
        },
    };
    linker.run(main)?;
    Ok(Program {
        name: object.functions[main].name.clone(),
        kind,
        insns: linker.insns,
        funcs: linker.funcs,
        maps: linker.maps.into_iter().map(|i| object.maps[i].clone()).collect(),
        lines: linker.lines.list,
        license: object.license.clone(),
    })
}

struct Linker<'a> {
    object: &'a Contents,
    insns: Vec<Insn>,
    funcs: Vec<Func>,
    /// Where each function is that was placed.
    placed: BTreeMap<usize, usize>,
    /// The object's numbers of the program's maps.
    maps: Vec<usize>,
    /// The program's numbers of the object's maps.
    map_numbers: BTreeMap<usize, i32>,
    lines: Lines<'a>,
}

/// What a reference in code leads to.
enum Target {
    Function(usize),
    Map(usize),
    Value(usize, i32),
}

/// A function whose instructions are being looked through.
struct Open {
    function: usize,
    next: usize,
}

impl<'a> Linker<'a> {
    fn run(&mut self, main: usize) -> Result<(), LoadError> {
        self.place(main, main)?;
        let mut open = vec![Open { function: main, next: 0 }];
        while let Some(Open { function, next }) = open.last_mut() {
            let (index, slot) = (*function, *next);
            let f = &self.object.functions[index];
            if slot >= f.end - f.start {
                open.pop();
                continue;
            }
            let wide = self.object.code[f.section].insns[f.start + slot].code == LDDW;
            *next += if wide { 2 } else { 1 };
            if let Some(callee) = self.link_slot(index, slot)? {
                let start = match self.placed.get(&callee) {
                    Some(start) => *start,
                    None => {
                        open.push(Open { function: callee, next: 0 });
                        self.place(callee, main)?
                    }
                };
                let at = self.placed[&index] + slot;
                // In range: a program has less than 2^31 slots.
                self.insns[at].imm = (start as i64 - at as i64 - 1) as i32;
            }
        }
        Ok(())
    }

    /// Appends a function as it is in the file.
    fn place(&mut self, index: usize, main: usize) -> Result<usize, LoadError> {
        let f = &self.object.functions[index];
        let start = self.insns.len();
        let count = start + (f.end - f.start);
        if count > limits::PROGRAM_INSNS {
            let name = &self.object.functions[main].name;
            let what = format!("instructions of program `{name}` and the functions it calls");
            return Err(LoadError::too_many(what, count, limits::PROGRAM_INSNS));
        }
        self.insns.extend_from_slice(&self.object.code[f.section].insns[f.start..f.end]);
        self.funcs.push(Func { start, name: f.name.clone() });
        self.placed.insert(index, start);
        self.lines.add(f, start);
        Ok(start)
    }

    /// Links what an instruction refers to; gives the function whose place is still to be
    /// written into it.
    fn link_slot(&mut self, index: usize, slot: usize) -> Result<Option<usize>, LoadError> {
        let object = self.object;
        let f = &object.functions[index];
        let at = self.placed[&index] + slot;
        let insn = self.insns[at];
        let code = &object.code[f.section];
        let relocation = code
            .relocations
            .binary_search_by_key(&(f.start + slot), |r| r.slot)
            .ok()
            .map(|i| code.relocations[i]);
        let reference = |problem: &str| LoadError::Reference {
            site: object.site(f, slot),
            problem: problem.to_owned(),
        };
        match (insn.code, relocation) {
            (LDDW, _) if slot + 1 >= f.end - f.start => {
                Err(reference("the second half of a 64-bit immediate is missing"))
            }
            (LDDW, None) if insn.src == 0 => self.no_relocation_inside(f, slot).map(|()| None),
            (LDDW, None) => Err(reference(
                "it refers to a map or function by a number that only a kernel could know; objects refer by relocation",
            )),
            (LDDW, Some(r)) => {
                self.no_relocation_inside(f, slot)?;
                if r.kind != R_64_64 {
                    return Err(object.relocation_error(
                        f,
                        slot,
                        r,
                        "64-bit immediates have type 1",
                    ));
                }
                let low = i64::from(insn.imm);
                match self.target(f, slot, r, low)? {
                    Target::Function(callee) => {
                        self.insns[at].src = SRC_FUNC;
                        self.insns[at + 1].imm = 0;
                        Ok(Some(callee))
                    }
                    Target::Map(map) => {
                        self.insns[at].src = SRC_MAP;
                        self.insns[at].imm = self.map_number(map)?;
                        self.insns[at + 1].imm = 0;
                        Ok(None)
                    }
                    Target::Value(map, offset) => {
                        self.insns[at].src = SRC_MAP_VALUE;
                        self.insns[at].imm = self.map_number(map)?;
                        self.insns[at + 1].imm = offset;
                        Ok(None)
                    }
                }
            }
            (CALL, Some(r)) => {
                if r.kind != R_64_32 {
                    return Err(object.relocation_error(f, slot, r, "calls have type 10"));
                }
                // The compiler wrote the distance from the next instruction.
                let distance = (i64::from(insn.imm) + 1) * 8;
                match self.target(f, slot, r, distance)? {
                    Target::Function(callee) => {
                        self.insns[at].src = SRC_CALL;
                        Ok(Some(callee))
                    }
                    _ => Err(object.relocation_error(f, slot, r, "it is data, not a function")),
                }
            }
            (CALL, None) if insn.src == SRC_CALL => {
                let to = (f.start + slot) as i64 + 1 + i64::from(insn.imm);
                let callee =
                    usize::try_from(to).ok().and_then(|to| object.function_at(f.section, to));
                callee
                    .map(Some)
                    .ok_or_else(|| reference("it calls a place where no function starts"))
            }
            (_, Some(r)) => Err(object.relocation_error(
                f,
                slot,
                r,
                "this instruction takes no address; only calls and 64-bit immediates do",
            )),
            (_, None) => Ok(None),
        }
    }

    fn no_relocation_inside(&self, f: &Function, slot: usize) -> Result<(), LoadError> {
        let relocations = &self.object.code[f.section].relocations;
        match relocations.binary_search_by_key(&(f.start + slot + 1), |r| r.slot) {
            Ok(i) => Err(self.object.relocation_error(
                f,
                slot + 1,
                relocations[i],
                "it is in the second half of a 64-bit immediate",
            )),
            Err(_) => Ok(()),
        }
    }

    /// Where a relocation leads, `addend` bytes behind its symbol.
    fn target(
        &self,
        f: &Function,
        slot: usize,
        r: Relocation,
        addend: i64,
    ) -> Result<Target, LoadError> {
        let object = self.object;
        let symbol = object.symbols[r.symbol];
        let fail = |problem: &str| Err(object.relocation_error(f, slot, r, problem));
        let section = match symbol.place {
            Place::Undefined => {
                return Err(LoadError::UndefinedSymbol {
                    site: object.site(f, slot),
                    symbol: object.symbol_name(&symbol),
                    hint: if r.kind == R_64_32 {
                        "link the function in; functions of a kernel (kfuncs) do not exist here"
                    } else {
                        "link it in; variables of a kernel (ksyms, kconfig) do not exist here"
                    },
                });
            }
            Place::Nowhere => return fail("the symbol is in no section of the object"),
            Place::Section(section) => section,
        };
        let Some(offset) = i64::try_from(symbol.value)
            .ok()
            .and_then(|value| value.checked_add(addend))
            .and_then(|offset| u64::try_from(offset).ok())
        else {
            return fail("it leads to a place before its section");
        };
        match object.roles[section].role {
            Role::Code(code) => {
                let function = usize::try_from(offset / 8)
                    .ok()
                    .filter(|_| offset % 8 == 0)
                    .and_then(|slot| object.function_at(code, slot));
                match function {
                    Some(function) => Ok(Target::Function(function)),
                    None => fail("no function starts where it leads to"),
                }
            }
            Role::Maps => match object.maps_at.get(&(section, offset)) {
                Some(map) => Ok(Target::Map(*map)),
                None => fail("no map is where it leads to"),
            },
            Role::Data { relocated: true, .. } => fail(
                "its section holds addresses, which data cannot here: no tables of functions or of references (in Rust: no `dyn`, no formatting)",
            ),
            Role::Data { map, .. } => match i32::try_from(offset) {
                Ok(offset) if (offset as u32) < object.maps[map].value_size => {
                    Ok(Target::Value(map, offset))
                }
                _ => fail("it leads to a place behind its section"),
            },
            Role::Other => fail("its section holds no code, maps or data that a program could use"),
        }
    }

    /// The program's number of a map of the object.
    fn map_number(&mut self, map: usize) -> Result<i32, LoadError> {
        if let Some(number) = self.map_numbers.get(&map) {
            return Ok(*number);
        }
        let number = self.maps.len();
        if number >= limits::PROGRAM_MAPS {
            let what = "maps and data sections of a program";
            return Err(LoadError::too_many(what, number + 1, limits::PROGRAM_MAPS));
        }
        self.maps.push(map);
        self.map_numbers.insert(map, number as i32);
        Ok(number as i32)
    }
}

/// Line records on their way into a program. Names and texts are shared, and there is a limit
/// to their bytes: they are there for messages, and must not cost more than the program.
struct Lines<'a> {
    object: &'a Contents,
    known: BTreeMap<u32, Arc<str>>,
    left: usize,
    list: Vec<Line>,
}

impl Lines<'_> {
    /// Adds those of a function that was placed at `start`.
    fn add(&mut self, f: &Function, start: usize) {
        let records = &self.object.code[f.section].lines;
        let first = records.partition_point(|l| l.slot < f.start);
        let end = records.partition_point(|l| l.slot < f.end);
        for l in &records[first..end] {
            let line = Line {
                insn: start + (l.slot - f.start),
                file: self.string(l.file),
                line: l.line,
                column: l.column,
                text: self.string(l.text),
            };
            match self.list.last_mut() {
                // Of several records for an instruction the last one counts.
                Some(last) if last.insn == line.insn => *last = line,
                _ => self.list.push(line),
            }
        }
    }

    fn string(&mut self, offset: u32) -> Arc<str> {
        if let Some(known) = self.known.get(&offset) {
            return known.clone();
        }
        let rest = self.object.btf_strings.get(offset as usize..).unwrap_or_default();
        let rest = rest.get(..limits::LINE_TEXT).unwrap_or(rest);
        let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
        let text = String::from_utf8_lossy(rest.get(..end).unwrap_or_default());
        let text: Arc<str> = match self.left.checked_sub(text.len()) {
            Some(left) => {
                self.left = left;
                text.trim_end().into()
            }
            None => "".into(),
        };
        self.known.insert(offset, text.clone());
        text
    }
}

impl Contents {
    /// The function that starts at a slot of a section with code.
    fn function_at(&self, code: usize, slot: usize) -> Option<usize> {
        let i = self.functions.partition_point(|f| (f.section, f.start) < (code, slot));
        let f = self.functions.get(i)?;
        (f.section == code && f.start == slot).then_some(i)
    }

    fn symbol_name(&self, symbol: &Symbol) -> String {
        let section = match symbol.place {
            Place::Section(section) => self.roles[section].name.as_str(),
            _ => "a symbol without a name",
        };
        match name_at(&self.symbol_strings, symbol.name) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => section.to_owned(),
        }
    }

    fn site(&self, f: &Function, slot: usize) -> Box<Site> {
        let code = &self.code[f.section];
        let n = code.lines.partition_point(|l| l.slot <= f.start + slot);
        let line = n.checked_sub(1).map(|i| code.lines[i]).filter(|l| l.slot >= f.start);
        Box::new(Site {
            function: f.name.clone(),
            section: code.name.clone(),
            insn: slot,
            source: line.and_then(|l| {
                let file = name_at(&self.btf_strings, l.file)?;
                Some((file.to_owned(), l.line))
            }),
        })
    }

    fn relocation_error(
        &self,
        f: &Function,
        slot: usize,
        r: Relocation,
        problem: &str,
    ) -> LoadError {
        LoadError::Relocation {
            site: self.site(f, slot),
            symbol: self.symbol_name(&self.symbols[r.symbol]),
            kind: r.kind,
            problem: problem.to_owned(),
        }
    }
}
