//! Why an object file, or a program of it, cannot be loaded.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::limits;
use crate::bpf::run::ExecError;
use crate::bpf::verifier::VerifyError;

/// Why an object file, or a program of it, cannot be loaded. Each says what, where in the
/// file, and what to do; [`errno`](Self::errno) is the code the kernel's loaders would give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be read. Its own code.
    #[error("cannot read {}: {message}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The portable kind.
        kind: io::ErrorKind,
        /// The errno, where the operating system gave one.
        code: Option<i32>,
        /// What the operating system says.
        message: String,
    },
    /// The file is larger than any parser. EFBIG.
    #[error(
        "the file has {bytes} bytes, more than the {limit} an object may have; strip its debug information (llvm-strip -g), or check that it is a BPF object"
    )]
    TooLarge {
        /// Bytes of the file.
        bytes: u64,
        /// [`limits::OBJECT_BYTES`].
        limit: u64,
    },
    /// Not an ELF file at all. ENOEXEC.
    #[error("not an ELF file: {found}")]
    NotElf {
        /// What it looks like, and what to do.
        found: &'static str,
    },
    /// An ELF file, but not one of little-endian BPF. ENOEXEC.
    #[error("an ELF file, but no little-endian BPF object: {found}")]
    Foreign {
        /// What it is instead, and what to do.
        found: String,
    },
    /// The file ends too early. ENOEXEC.
    #[error(
        "{what} reaches to byte {end}, but the file has {bytes}: it is cut off or damaged; copy or build it again"
    )]
    Truncated {
        /// The part of the file.
        what: String,
        /// Where that part ends, in bytes from the start.
        end: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// Two parts of the file share bytes. ENOEXEC.
    #[error("{first} and {second} overlap at byte {at} of the file: it is damaged; build it again")]
    Overlap {
        /// The part that starts first.
        first: String,
        /// The part that starts inside it.
        second: String,
        /// Where.
        at: u64,
    },
    /// A part of the file contradicts the rules of its format. ENOEXEC.
    #[error("{part}: {problem}; build the object again")]
    Malformed {
        /// The part of the file: a section, a symbol, a record.
        part: String,
        /// What is wrong with it.
        problem: String,
    },
    /// More of something than an object may have. E2BIG.
    #[error("{what}: {count}, more than the {limit} that are allowed")]
    TooMany {
        /// What, and whose.
        what: String,
        /// How many there are.
        count: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The object has no program that could parse messages. ENOENT.
    #[error("the object has no parser: a parser is a global function in a section `sk_skb/stream_parser…` or `socket…`; {}", Sections(.sections))]
    NoPrograms {
        /// The sections with code that it does have.
        sections: Vec<String>,
    },
    /// No program has that name. ENOENT.
    #[error("the object has no program `{name}`; it has {}", List(.available))]
    UnknownProgram {
        /// The name asked for.
        name: String,
        /// The names there are.
        available: Vec<String>,
    },
    /// The name is that of a section with several programs. EINVAL.
    #[error("`{name}` may be any of {}; ask for one by its function's name", List(.candidates))]
    AmbiguousProgram {
        /// The name asked for.
        name: String,
        /// The programs it may mean.
        candidates: Vec<String>,
    },
    /// The function of that name is no message parser. EINVAL.
    #[error(
        "`{name}` is in section `{section}` and no parser: a parser is a global function in a section `sk_skb/stream_parser…` or `socket…`"
    )]
    NotAParser {
        /// The name asked for.
        name: String,
        /// The function's section.
        section: String,
    },
    /// Code refers to a symbol that the object does not define. ENOENT.
    #[error("{site}: `{symbol}` is not defined in the object; {hint}")]
    UndefinedSymbol {
        /// The reference.
        site: Box<Site>,
        /// The symbol.
        symbol: String,
        /// What to do.
        hint: &'static str,
    },
    /// A reference in code cannot be linked. EINVAL.
    #[error("{site}: cannot link the reference to `{symbol}` (relocation type {kind}): {problem}")]
    Relocation {
        /// The reference.
        site: Box<Site>,
        /// The symbol.
        symbol: String,
        /// The number of the relocation type (`R_BPF_*`).
        kind: u32,
        /// Why not, and what to do.
        problem: String,
    },
    /// A call or a map reference that names no symbol, and no function either. EINVAL.
    #[error("{site}: {problem}")]
    Reference {
        /// The reference.
        site: Box<Site>,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A global variable cannot be set. EINVAL.
    #[error("global variable `{name}`: {problem}")]
    Global {
        /// The variable.
        name: String,
        /// Why not.
        problem: String,
    },
    /// A map's definition cannot be understood. EINVAL.
    #[error("map `{name}`: {problem}")]
    Map {
        /// The map.
        name: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The verifier rejected the program. EACCES, as the kernel says.
    #[error("{0}")]
    Rejected(Box<VerifyError>),
    /// The program was verified, and the executor that was asked for cannot run it: the
    /// errors of [`ExecError`].
    #[error("program `{program}` cannot be run: {error}")]
    Exec {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        error: ExecError,
    },
}

/// An instruction in an object file: where a reference that cannot be linked stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The function.
    pub function: String,
    /// The function's section.
    pub section: String,
    /// Instruction slot, counted from the start of the function.
    pub insn: usize,
    /// The source file and line, where the object says so.
    pub source: Option<(String, u32)>,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "function `{}` (section `{}`), instruction {}",
            self.function, self.section, self.insn
        )?;
        match &self.source {
            Some((file, line)) => write!(f, ", {file}:{line}"),
            None => Ok(()),
        }
    }
}

/// Prints names one after another.
struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().take(limits::NAMES_SHOWN).enumerate() {
            write!(f, "{}`{name}`", if i > 0 { ", " } else { "" })?;
        }
        match self.0.len().saturating_sub(limits::NAMES_SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Prints the sections with code that an object without parsers has.
struct Sections<'a>(&'a [String]);

impl fmt::Display for Sections<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            f.write_str("this one has no code")
        } else {
            write!(f, "this one has code in {}", List(self.0))
        }
    }
}

impl LoadError {
    /// The errno this error stands for. Always positive.
    pub fn errno(&self) -> i32 {
        match self {
            LoadError::Io { code, .. } => code.unwrap_or(libc::EIO),
            LoadError::TooLarge { .. } => libc::EFBIG,
            LoadError::NotElf { .. }
            | LoadError::Foreign { .. }
            | LoadError::Truncated { .. }
            | LoadError::Overlap { .. }
            | LoadError::Malformed { .. } => libc::ENOEXEC,
            LoadError::TooMany { .. } => libc::E2BIG,
            LoadError::NoPrograms { .. }
            | LoadError::UnknownProgram { .. }
            | LoadError::UndefinedSymbol { .. } => libc::ENOENT,
            LoadError::AmbiguousProgram { .. }
            | LoadError::NotAParser { .. }
            | LoadError::Relocation { .. }
            | LoadError::Reference { .. }
            | LoadError::Global { .. }
            | LoadError::Map { .. } => libc::EINVAL,
            LoadError::Rejected(_) => libc::EACCES,
            LoadError::Exec { error, .. } => error.errno(),
        }
    }

    pub(super) fn malformed(part: impl Into<String>, problem: impl Into<String>) -> Self {
        LoadError::Malformed { part: part.into(), problem: problem.into() }
    }

    pub(super) fn too_many(what: impl Into<String>, count: usize, limit: usize) -> Self {
        LoadError::TooMany { what: what.into(), count: count as u64, limit: limit as u64 }
    }
}

impl From<LoadError> for io::Error {
    /// Keeps the errno's kind, with the error itself inside.
    fn from(error: LoadError) -> Self {
        let kind = io::Error::from_raw_os_error(error.errno()).kind();
        io::Error::new(kind, error)
    }
}
