//! Files that are no objects, or no longer, or not meant to be loaded: each gets an error that
//! says what is wrong, never a panic, never time or memory without limit.
#![allow(unsafe_code)] // an allocator that counts

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use kcm_core::object::limits;
use kcm_core::{LoadError, Object};
use kcm_tests::fuzz::Fuzz;
use kcm_tests::fuzz::object::{Objects, link};
use kcm_tests::fuzz::rng::Rng;
use kcm_tests::objects::{bytes, path, sound};

/// Counts the bytes that are allocated, and the most there ever were.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: it hands everything to the system's allocator unchanged and only counts.
unsafe impl GlobalAlloc for Counting {
    /// # Safety
    /// As the trait's.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    /// # Safety
    /// As the trait's.
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that loading may take beyond the file's own size; limits.rs is where it comes from.
const MEMORY: usize = 192 << 20;

fn refused(bytes: &[u8]) -> LoadError {
    match Object::parse(bytes) {
        Err(e) => e,
        Ok(o) => panic!("loaded: {:?}", o.programs().collect::<Vec<_>>()),
    }
}

// Where things are in an ELF file.
const SHOFF: usize = 40;
const SHNUM: usize = 60;
const SHSTRNDX: usize = 62;
const SHDR: usize = 64;

fn get(b: &[u8], at: usize, size: usize) -> u64 {
    let mut word = [0; 8];
    word[..size].copy_from_slice(&b[at..at + size]);
    u64::from_le_bytes(word)
}

fn put(b: &mut [u8], at: usize, size: usize, value: u64) {
    b[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// Where the header of a section is in the file, by the section's name.
fn header(b: &[u8], name: &str) -> usize {
    let table = get(b, SHOFF, 8) as usize;
    let at = |i: usize| table + i * SHDR;
    let names = get(b, at(get(b, SHSTRNDX, 2) as usize) + 24, 8) as usize;
    (0..get(b, SHNUM, 2) as usize)
        .map(at)
        .find(|h| {
            let text = &b[names + get(b, *h, 4) as usize..];
            text.starts_with(name.as_bytes()) && text.get(name.len()) == Some(&0)
        })
        .unwrap_or_else(|| panic!("no section {name}"))
}

/// Where the bytes of a section are in the file.
fn contents(b: &[u8], name: &str) -> usize {
    get(b, header(b, name) + 24, 8) as usize
}

/// The file with a field of a section's header changed.
fn with_header(from: &str, section: &str, field: usize, size: usize, value: u64) -> Vec<u8> {
    let mut b = bytes(from);
    let at = header(&b, section) + field;
    put(&mut b, at, size, value);
    b
}

#[test]
fn what_is_no_elf_file_is_told_what_it_is() {
    for (bytes, says) in [
        (&b""[..], "it is empty"),
        (b"\x7fEL", "ends inside the first four bytes"),
        (b"int main(void) { return 0; }\n", "it is text"),
        (b"!<arch>\nfoo", "library archive"),
        (b"BC\xc0\xde\x35\x14", "LLVM bitcode"),
        (b"\0asm\x01\0\0\0", "WebAssembly"),
        (b"\x1f\x8b\x08\0\0\0", "compressed"),
        (b"\0\x01\x02\x03\x04", "give a BPF object"),
    ] {
        let e = refused(bytes);
        assert!(matches!(e, LoadError::NotElf { .. }), "{e:?}");
        assert!(e.to_string().contains(says), "{e}");
        assert_eq!(e.errno(), libc::ENOEXEC);
    }
}

#[test]
fn objects_for_other_machines_are_named() {
    for (name, says) in [
        ("foreign/x86-64", "machine 62 (x86-64)"),
        ("foreign/aarch64", "machine 183 (AArch64)"),
        ("foreign/arm", "32-bit"),
        ("foreign/bpfeb", "big-endian BPF; build for bpfel"),
    ] {
        let e = refused(&bytes(name));
        assert!(matches!(e, LoadError::Foreign { .. }), "{e:?}");
        assert!(e.to_string().contains(says), "{name}: {e}");
    }
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let e = refused(&own[..own.len().min(1 << 20)]);
    assert!(matches!(e, LoadError::Foreign { .. }), "this very test's file: {e:?}");
    let mut linked = bytes("many");
    put(&mut linked, 16, 2, 2);
    assert!(refused(&linked).to_string().contains("its type is 2"), "an executable is no object");
}

#[test]
fn a_file_that_cannot_be_read_or_is_too_large_says_so() {
    let e = Object::from_file("/no/such/file.o").unwrap_err();
    assert!(matches!(e, LoadError::Io { kind: std::io::ErrorKind::NotFound, .. }), "{e:?}");
    assert_eq!(e.errno(), libc::ENOENT);
    assert!(e.to_string().starts_with("cannot read /no/such/file.o"), "{e}");
    let folder = tempfile::tempdir().unwrap();
    let e = Object::from_file(folder.path()).unwrap_err();
    assert!(matches!(e, LoadError::Io { .. }), "a folder: {e:?}");
    // Without end, and of no size that could be asked for.
    let e = Object::from_file("/dev/zero").unwrap_err();
    assert!(matches!(e, LoadError::TooLarge { .. }), "{e:?}");
    let mut large = bytes("many");
    large.resize(limits::OBJECT_BYTES + 1, 0);
    let e = refused(&large);
    assert!(matches!(e, LoadError::TooLarge { .. }) && e.errno() == libc::EFBIG, "{e:?}");
    large.pop();
    assert!(Object::parse(&large).is_ok(), "bytes that no section names are no harm");
}

#[test]
fn a_file_cut_off_at_any_byte_is_an_error() {
    for (name, bytes) in sound() {
        for end in 0..bytes.len() {
            let e = match Object::parse(&bytes[..end]) {
                Err(e) => e,
                Ok(_) => panic!("{name} loads when cut off at {end} of {}", bytes.len()),
            };
            if end >= 64 {
                assert!(matches!(e, LoadError::Truncated { .. }), "{name} at {end}: {e:?}");
            }
        }
    }
}

#[test]
fn impossible_section_tables_are_errors() {
    let field = |at: usize, size: usize, value: u64| {
        let mut b = bytes("many");
        put(&mut b, at, size, value);
        refused(&b)
    };
    assert!(field(SHOFF, 8, 0).to_string().contains("there is none"));
    for offset in [1 << 20, u64::MAX, u64::MAX - 63, i64::MAX as u64] {
        let e = field(SHOFF, 8, offset);
        assert!(matches!(e, LoadError::Truncated { .. }), "{e:?}");
    }
    let e = field(SHNUM, 2, 0xfeff);
    assert!(matches!(e, LoadError::TooMany { .. }), "{e:?}");
    let e = field(SHNUM, 2, 200);
    assert!(matches!(e, LoadError::Truncated { .. }), "{e:?}");
    assert!(field(58, 2, 0).to_string().contains("entries have 0 bytes"));
    assert!(field(58, 2, 65).to_string().contains("entries have 65 bytes"));
    assert!(field(SHSTRNDX, 2, 0xfe00).to_string().contains("should hold the names"));
    assert!(field(SHSTRNDX, 2, 3).to_string().contains("should hold the names"));
    // Zero means: the true number is in the first entry. Here it says four thousand million.
    let mut b = bytes("many");
    let table = get(&b, SHOFF, 8) as usize;
    put(&mut b, SHNUM, 2, 0);
    put(&mut b, table + 32, 8, 0xffff_ffff);
    let e = refused(&b);
    assert!(matches!(e, LoadError::TooMany { count: 0xffff_ffff, .. }), "{e:?}");
    put(&mut b, table + 32, 8, u64::MAX);
    refused(&b);
}

#[test]
fn sections_beyond_the_file_or_over_each_other_are_errors() {
    for (offset, size) in [(1 << 30, 16), (u64::MAX, 16), (0, u64::MAX), (64, 1 << 20)] {
        let mut b = with_header("many", "xdp", 24, 8, offset);
        let h = header(&b, "xdp");
        put(&mut b, h + 32, 8, size);
        let e = refused(&b);
        assert!(matches!(&e, LoadError::Truncated { what, .. } if what.contains("xdp")), "{e:?}");
    }
    let first = contents(&bytes("many"), "socket/first") as u64;
    let e = refused(&with_header("many", "xdp", 24, 8, first + 8));
    assert_eq!(
        e.to_string(),
        format!(
            "section `socket/first` and section `xdp` overlap at byte {} of the file: it is damaged; build it again",
            first + 8
        )
    );
    let e = refused(&with_header("many", "xdp", 24, 8, 8));
    assert!(matches!(&e, LoadError::Overlap { first, .. } if first == "the ELF header"), "{e:?}");
    let e = refused(&with_header("many", "xdp", 0, 4, u64::from(u32::MAX)));
    assert!(e.to_string().contains("its name"), "{e}");
}

#[test]
fn data_sections_have_a_limit() {
    for bytes in [limits::DATA_BYTES as u64 + 1, 1 << 40, u64::MAX] {
        let e = refused(&with_header("maps", ".bss", 32, 8, bytes));
        assert!(matches!(&e, LoadError::TooMany { what, .. } if what.contains(".bss")), "{e:?}");
    }
    let b = with_header("maps", ".bss", 32, 8, limits::DATA_BYTES as u64);
    Object::parse(&b).unwrap().program("counted").unwrap();
}

#[test]
fn code_that_is_no_whole_instructions_is_an_error() {
    let e = refused(&with_header("many", "socket/first", 32, 8, 12));
    assert!(e.to_string().contains("`socket/first`: its 12 bytes"), "{e}");
    let e = refused(&with_header("many", "socket/first", 32, 8, 8));
    assert!(e.to_string().contains("function `one`"), "it is larger than its section: {e}");
}

/// The place of a symbol in the file.
fn symbol(b: &[u8], name: &str) -> usize {
    let strings = contents(b, ".strtab");
    let table = header(b, ".symtab");
    let (start, size) = (get(b, table + 24, 8) as usize, get(b, table + 32, 8) as usize);
    (start..start + size)
        .step_by(24)
        .find(|at| {
            let text = &b[strings + get(b, *at, 4) as usize..];
            text.starts_with(name.as_bytes()) && text.get(name.len()) == Some(&0)
        })
        .unwrap_or_else(|| panic!("no symbol {name}"))
}

#[test]
fn functions_outside_their_section_or_over_each_other_are_errors() {
    for (field, size, value, says) in [
        (8, 8, 4, "whole instructions"),
        (8, 8, 1 << 40, "it reaches from byte"),
        (8, 8, u64::MAX - 7, "it reaches from byte"),
        (16, 8, 4, "whole instructions"),
        (16, 8, u64::MAX - 7, "it reaches from byte"),
        (16, 8, 64, "another function starts at"),
        (6, 2, 0x7fff, "it is in section 32767"),
        (0, 4, 0x7fff_ffff, "its name"),
    ] {
        let mut b = bytes("socket_kcm");
        let at = symbol(&b, "half_framed");
        put(&mut b, at + field, size, value);
        let e = refused(&b);
        assert!(e.to_string().contains(says), "field {field} = {value:#x}: {e}");
    }
    // Without a size it reaches to the next one.
    let mut b = bytes("socket_kcm");
    let at = symbol(&b, "half_framed");
    put(&mut b, at + 16, 8, 0);
    assert_eq!(Object::parse(&b).unwrap().program("half_framed").unwrap().insns.len(), 4);
}

#[test]
fn an_object_without_a_parser_says_what_it_has() {
    let mut b = bytes("many");
    for name in ["one", "two", "three", "four"] {
        let at = symbol(&b, name);
        b[at + 4] &= 0x0f; // local
    }
    let e = refused(&b).to_string();
    assert!(e.starts_with("the object has no parser") && e.contains("`socket/first`"), "{e}");
    let mut b = bytes("many");
    let at = header(&b, ".symtab");
    put(&mut b, at + 4, 4, 1); // an ordinary section: no symbols at all
    assert!(matches!(refused(&b), LoadError::NoPrograms { .. }));
}

/// The file with a relocation of a section with code changed: which, which field, to what.
fn with_relocation(from: &str, section: &str, i: usize, field: usize, value: u64) -> Vec<u8> {
    let mut b = bytes(from);
    let at = contents(&b, section) + 16 * i;
    put(&mut b, at + field, if field == 0 { 8 } else { 4 }, value);
    b
}

#[test]
fn relocations_that_make_no_sense_are_errors() {
    let section = ".relsocket";
    for (field, value, says) in [
        (0, 4, "offset 4 is no instruction of section `socket`"),
        (0, 1 << 40, "is no instruction of section `socket`"),
        (0, 192, "two relocations"),
        (12, 4096, "it names symbol 4096"),
    ] {
        let e = refused(&with_relocation("maps", section, 0, field, value));
        assert!(e.to_string().contains(says), "{e}");
    }
    let link = |b: Vec<u8>| Object::parse(&b).unwrap().program("counted").unwrap_err();
    for (field, value, says) in [
        (8, 2, "(relocation type 2): 64-bit immediates have type 1"),
        (8, 10, "(relocation type 10): 64-bit immediates have type 1"),
        (8, 77, "(relocation type 77)"),
        (0, 16, "this instruction takes no address"),
        (0, 8, "in the second half of a 64-bit immediate"),
        (12, 0, "is not defined in the object"),
    ] {
        let e = link(with_relocation("maps", section, 0, field, value)).to_string();
        assert!(e.contains(says) && e.contains("function `counted`"), "{e}");
        assert!(e.contains("maps.c:"), "with its source line: {e}");
    }
    // The place a symbol leads to: behind its section, before it, on no map, in no section.
    for (name, field, size, value, says) in [
        ("calls", 8, 8, 16, "behind its section"),
        ("calls", 8, 8, u64::MAX, "before its section"),
        ("calls", 8, 8, i64::MAX as u64, "behind its section"),
        ("calls", 6, 2, 0xfff1, "in no section of the object"),
        ("calls", 6, 2, 0xfff2, "in no section of the object"),
        ("calls", 6, 2, 3, "no function starts where it leads to"),
        ("calls", 6, 2, 10, "no code, maps or data"),
    ] {
        let mut b = bytes("maps");
        let at = symbol(&b, name);
        // A symbol at the start of a function would be a function's.
        if (field, value) == (6, 3) {
            put(&mut b, at + 8, 8, 8);
        }
        put(&mut b, at + field, size, value);
        match Object::parse(&b).and_then(|o| o.program("counted")) {
            Err(e) => assert!(e.to_string().contains(says), "{name} {field} {value:#x}: {e}"),
            Ok(_) => panic!("linked with {name} {field} = {value:#x}"),
        }
    }
    // `hidden` is known by an offset in its section, which the instruction holds.
    let mut b = bytes("maps");
    let code = contents(&b, "socket");
    let at = (0..).map(|i| code + 8 * i).find(|at| get(&b, *at, 8) == 0x20_0000_0118).unwrap();
    b[at + 4] += 4;
    assert!(link(b).to_string().contains("no map is where it leads to"));
}

#[test]
fn numbers_in_code_are_not_taken_for_maps_or_functions() {
    // `LDDW` with a source register and no relocation: what a kernel would take for a file
    // descriptor must not become the first map.
    for src in 1..16 {
        let mut b = bytes("calls_without_btf");
        let at = contents(&b, "sk_skb/stream_parser");
        // Into `plus_header`, which is the first function there.
        b[at..at + 16].copy_from_slice(&[0x18, src << 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let e = Object::parse(&b).unwrap().program("framed").unwrap_err();
        assert!(matches!(e, LoadError::Reference { .. }), "{e:?}");
    }
    for imm in [-2, 1, 100, i32::MAX, i32::MIN] {
        let mut b = bytes("calls_without_btf");
        let at = contents(&b, "sk_skb/stream_parser");
        b[at..at + 4].copy_from_slice(&[0x85, 0x10, 0, 0]);
        b[at + 4..at + 8].copy_from_slice(&imm.to_le_bytes());
        let e = Object::parse(&b).unwrap().program("framed").unwrap_err();
        assert!(e.to_string().contains("where no function starts"), "{imm}: {e}");
    }
    // The second half of an immediate is missing at the end of a function.
    let mut b = bytes("many");
    let at = contents(&b, "socket/first");
    b[at + 8] = 0x18;
    let e = Object::parse(&b).unwrap().program("one").unwrap_err();
    assert!(e.to_string().contains("second half"), "{e}");
}

#[test]
fn broken_btf_is_an_error_that_names_the_section() {
    for (section, at, size, value) in [
        (".BTF", 0, 2, 0x9feb),
        (".BTF", 0, 2, 0),
        (".BTF", 2, 1, 9),
        (".BTF", 4, 4, 0),
        (".BTF", 4, 4, 0xffff_ffff),
        (".BTF", 8, 4, 0xffff_ffff),
        (".BTF", 12, 4, 0xffff_ffff),
        (".BTF", 16, 4, 0xffff_fff0),
        (".BTF", 20, 4, 0xffff_ffff),
        (".BTF.ext", 0, 2, 0),
        (".BTF.ext", 4, 4, 0xffff),
        (".BTF.ext", 16, 4, 0xffff_ffff),
        (".BTF.ext", 20, 4, 0xffff_ffff),
        (".BTF.ext", 20, 4, 13),
    ] {
        let mut b = bytes("maps");
        let start = contents(&b, section);
        put(&mut b, start + at, size, value);
        let e = refused(&b);
        let LoadError::Malformed { part, .. } = &e else { panic!("{e:?}") };
        assert_eq!(part, &format!("section `{section}`"), "{e}");
    }
    let e = refused(&bytes("maps_without_btf"));
    assert!(e.to_string().contains("compile with -g"), "{e}");
}

#[test]
fn a_license_that_is_no_text_is_an_error() {
    let mut b = bytes("many");
    let at = contents(&b, "license");
    b[at] = 0xff;
    assert!(refused(&b).to_string().contains("section `license`"));
    let mut b = bytes("many");
    let h = header(&b, "license");
    put(&mut b, h, 4, 0); // no name: no license
    assert_eq!(Object::parse(&b).unwrap().license(), "");
}

/// A share of the target `object`, with its memory counted. `cargo xtask fuzz object` goes on.
#[test]
fn mutated_objects_never_panic_and_stay_within_memory() {
    let (runs, mut loaded) = (100_000, 0u64);
    let mut slowest = std::time::Duration::ZERO;
    for seed in 0..runs {
        let case = Objects::make(&mut Rng::new(seed));
        let before = NOW.load(Relaxed);
        MOST.store(before, Relaxed);
        let begun = std::time::Instant::now();
        let verdict = link(&case.bytes).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        loaded += verdict.len() as u64;
        slowest = slowest.max(begun.elapsed());
        let most = MOST.load(Relaxed).saturating_sub(before);
        assert!(most <= MEMORY, "seed {seed}: {most} bytes for a file of {}", case.bytes.len());
    }
    println!("{runs} files, {loaded} programs linked from them, slowest {slowest:?}");
    assert!(loaded > 0, "some damage does no harm, or the test tests nothing");
}

/// The worst files that are still small enough, each as bad as one limit allows.
#[test]
fn files_made_to_cost_cost_no_more_than_the_limits() {
    let measured = |what: &str, b: &[u8]| {
        assert!(b.len() <= limits::OBJECT_BYTES, "{what}");
        let before = NOW.load(Relaxed);
        MOST.store(before, Relaxed);
        let begun = std::time::Instant::now();
        link(b).unwrap();
        let most = MOST.load(Relaxed).saturating_sub(before);
        println!("{what}: {:?}, {} MiB", begun.elapsed(), most >> 20);
        assert!(most < MEMORY, "{what} took {most} bytes");
    };
    // A section's contents moved to the end of the file and made large.
    let grown = |section: &str, size: usize, fill: &dyn Fn(&mut [u8])| {
        let mut b = bytes("maps");
        let h = header(&b, section);
        let old = contents(&b, section);
        let old = b[old..old + get(&b, h + 32, 8) as usize].to_vec();
        let start = b.len().next_multiple_of(8);
        b.resize(start + size, 0);
        b[start..start + old.len()].copy_from_slice(&old);
        fill(&mut b[start + old.len()..]);
        put(&mut b, h + 24, 8, start as u64);
        put(&mut b, h + 32, 8, size as u64);
        b
    };
    let large = limits::OBJECT_BYTES - (64 << 10);
    measured("code", &grown("socket", large, &|b| b.fill(0)));
    measured(
        "symbols, all alike functions",
        &grown(".symtab", large / 24 * 24, &|b| {
            for s in b.chunks_exact_mut(24) {
                put(s, 0, 4, 1);
                s[4] = 0x12;
                put(s, 6, 2, 3);
            }
        }),
    );
    measured(
        "symbols, all maps",
        &grown(".symtab", large / 24 * 24, &|b| {
            for s in b.chunks_exact_mut(24) {
                s[4] = 0x11;
                put(s, 6, 2, 8);
            }
        }),
    );
    measured("names without end", &grown(".strtab", large, &|b| b.fill(b'x')));
    measured(
        "relocations",
        &grown(".relsocket", large / 16 * 16, &|b| {
            for (i, r) in b.chunks_exact_mut(16).enumerate() {
                put(r, 0, 8, i as u64 * 8);
                put(r, 8, 8, 1 | 16 << 32);
            }
        }),
    );
    measured("types", &grown(".BTF", large, &|b| b.fill(0)));
    measured("lines", &grown(".BTF.ext", large, &|b| b.fill(0)));
    // Lines proper: the table's length in the header grows along.
    let mut b = grown(".BTF.ext", large, &|b| b.fill(0));
    let at = contents(&b, ".BTF.ext");
    let start = get(&b, at + 4, 4) + get(&b, at + 16, 4);
    put(&mut b, at + 20, 4, large as u64 - start);
    let block = at + start as usize + 4;
    put(&mut b, block + 4, 4, (large as u64 - start - 12) / 16);
    measured("one long list of lines", &b);
}

#[test]
fn errors_are_the_same_from_a_file_and_from_its_bytes() {
    for name in ["undefined", "addresses", "foreign/arm", "maps_without_btf"] {
        let file = Object::from_file(path(name)).err();
        assert_eq!(file, Object::parse(&bytes(name)).err(), "{name}");
    }
}
