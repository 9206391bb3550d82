//! From an object's programs for a kernel to a sockmap that runs them.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use kcm_common::kernel::{
    MAX_ROOM, PARSER_SUFFIX, RECORD_HEAD, RING_HEAD, RING_MAP, SLOTS_MAP, SOCKETS_MAP,
    STRP_MSG_GLOBAL, VERDICT, VERDICT_PREFIX,
};

use super::error::Error;
use super::sys::{self, STREAM_PARSER, STREAM_VERDICT};
use super::{Capability, btf};
use crate::bpf::map::MapDef;
use crate::bpf::program::Program;
use crate::log::LEVEL_GLOBAL;
use crate::object::Object;

/// Connections that one loaded parser serves at once.
pub(super) const CONNECTIONS: u32 = 4096;

/// The ring's size unless the parser is loaded with another: 8 MiB.
pub(crate) const RING_BYTES: u32 = 8 << 20;

/// The longest message that a ring carries: one record may take half of it, so that there is
/// room for the next while one is read.
pub(super) fn carries(ring_bytes: u32) -> u32 {
    let half = (ring_bytes / 2).saturating_sub(RING_HEAD + RECORD_HEAD).max(1);
    (1 << half.ilog2()).min(MAX_ROOM)
}

/// A loaded pair of programs, and its maps.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) sockmap: OwnedFd,
    pub(super) sockets: OwnedFd,
    pub(super) slots: OwnedFd,
    pub(super) ring: OwnedFd,
    /// The ring of the parser's log lines, and its size.
    pub(super) logs: Option<(OwnedFd, usize)>,
    /// They live as long as the sockmap; kept for the maps that only they use.
    _programs: [OwnedFd; 2],
}

/// What to load.
pub(super) struct Source<'a> {
    pub(super) object: &'a Object,
    /// The parser's name in process.
    pub(super) name: &'a str,
    pub(super) log_level: u8,
    pub(super) ring_bytes: u32,
    /// What our verifier says of it.
    pub(super) opinion: String,
}

/// Links the two programs, told what the running kernel is like.
fn link(source: &Source<'_>) -> Result<[Program; 2], Error> {
    let parser = source.name.to_owned();
    let name = format!("{parser}{PARSER_SUFFIX}");
    let has = |name: &str| source.object.programs().any(|p| p.name == name);
    if !has(&name) {
        return Err(Error::NoPrograms { parser, missing: name });
    }
    if !has(VERDICT) {
        let other = source.object.programs().find(|p| p.name.starts_with(VERDICT_PREFIX));
        return Err(match other {
            Some(p) => Error::Version { parser, found: p.name.to_owned(), expected: VERDICT },
            None => Error::NoPrograms { parser, missing: VERDICT.to_owned() },
        });
    }
    let mut object = source.object.clone();
    let types = std::fs::read(btf::PATH).map_err(|e| Error::Unsupported {
        what: format!("{}: {e} (CONFIG_DEBUG_INFO_BTF)", btf::PATH),
    })?;
    let offset = btf::strp_msg(&types).map_err(|what| Error::Unsupported {
        what: format!("{what} (CONFIG_BPF_STREAM_PARSER)"),
    })?;
    object.set_global(STRP_MSG_GLOBAL, &offset.to_le_bytes())?;
    if object.has_global(LEVEL_GLOBAL, 1) {
        object.set_global(LEVEL_GLOBAL, &[source.log_level])?;
    }
    Ok([object.program(&name)?, object.program(VERDICT)?])
}

/// The size that a map is made with: what is shared with this process has the loader's.
fn sized(def: &MapDef, ring_bytes: u32) -> MapDef {
    let max_entries = match def.name.as_str() {
        RING_MAP => ring_bytes,
        SOCKETS_MAP | SLOTS_MAP => CONNECTIONS,
        _ => def.max_entries,
    };
    MapDef { max_entries, ..def.clone() }
}

/// Makes the maps, loads the programs, attaches them to a new sockmap.
pub(super) fn load(source: &Source<'_>) -> Result<Loaded, Error> {
    let page = rustix::param::page_size() as u32;
    if !source.ring_bytes.is_power_of_two() || source.ring_bytes < page {
        return Err(Error::RingSize { ring: source.ring_bytes, page });
    }
    let programs = link(source)?;
    let mut maps: HashMap<String, OwnedFd> = HashMap::new();
    for def in programs.iter().flat_map(|p| &p.maps) {
        if !maps.contains_key(&def.name) {
            let fd = sys::map(&sized(def, source.ring_bytes))
                .map_err(|e| Error::of("making a map", e))?;
            maps.insert(def.name.clone(), fd);
        }
    }
    // Those with values of 8 bytes can be asked whether a socket is there.
    let sockmap = MapDef::new("kcm_sockmap", sys::SOCKMAP, 4, 8, CONNECTIONS);
    let sockmap = sys::map(&sockmap).map_err(|e| match e.raw_os_error() {
        Some(libc::EINVAL) => {
            Error::Unsupported { what: "no sockmaps (CONFIG_BPF_STREAM_PARSER)".to_owned() }
        }
        _ => Error::of("making a sockmap", e),
    })?;
    let [parser, verdict] = &programs;
    let load = |program: &Program, attach| load_one(program, attach, &maps, &source.opinion);
    let programs = [load(parser, STREAM_PARSER)?, load(verdict, STREAM_VERDICT)?];
    let [parser, verdict] = &programs;
    let unsupported = |e: std::io::Error| match e.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::EINVAL) => Error::Unsupported {
            what: format!("no stream parsers on sockmaps: {e} (CONFIG_BPF_STREAM_PARSER)"),
        },
        _ => Error::of("attaching the programs", e),
    };
    sys::attach(sockmap.as_fd(), parser.as_fd(), STREAM_PARSER).map_err(unsupported)?;
    sys::attach(sockmap.as_fd(), verdict.as_fd(), STREAM_VERDICT).map_err(unsupported)?;
    let mut take = |name: &str| {
        maps.remove(name).ok_or_else(|| Error::NoPrograms {
            parser: source.name.to_owned(),
            missing: format!("that uses map {name}"),
        })
    };
    let (ring, slots, sockets) = (take(RING_MAP)?, take(SLOTS_MAP)?, take(SOCKETS_MAP)?);
    let logs = maps.remove(crate::log::RING).and_then(|fd| {
        let def = source.object.maps().iter().find(|m| m.name == crate::log::RING)?;
        Some((fd, def.max_entries as usize))
    });
    Ok(Loaded { sockmap, sockets, slots, ring, logs, _programs: programs })
}

fn load_one(
    program: &Program,
    attach: u32,
    maps: &HashMap<String, OwnedFd>,
    opinion: &str,
) -> Result<OwnedFd, Error> {
    let mut insns = program.insns.clone();
    for insn in insns.iter_mut().filter(|i| i.code == 0x18 && matches!(i.src, 1 | 2)) {
        let def = program.maps.get(insn.imm as usize);
        if let Some(fd) = def.and_then(|def| maps.get(&def.name)) {
            insn.imm = fd.as_raw_fd();
        }
    }
    let funcs: Vec<u32> = program.funcs.iter().map(|f| f.start as u32).collect();
    let load = sys::Load {
        name: &program.name,
        insns: &insns,
        funcs: &funcs,
        license: &program.license,
        attach,
    };
    sys::load(&load).map_err(|(error, log)| {
        let permission = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
        if permission && !Capability::missing().is_empty() {
            return Error::of("loading a program", error);
        }
        Error::Rejected { program: program.name.clone(), error, log, opinion: opinion.to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kcm_common::kernel::charge;

    #[test]
    fn what_a_ring_carries_takes_half_of_it_at_most() {
        for ring in [1 << 12, 1 << 16, 1 << 20, RING_BYTES, 1 << 30] {
            let longest = carries(ring);
            assert!(charge(longest) <= u64::from(ring / 2), "{ring}: {longest}");
            assert!(charge(longest + 1) > u64::from(ring / 2) || longest == MAX_ROOM, "{ring}");
        }
    }
}
