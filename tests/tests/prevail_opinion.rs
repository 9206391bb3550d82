//! PREVAIL as a second opinion: another verifier, by abstract interpretation, with a loader of
//! its own. Where it and ours disagree, the table below says why; a disagreement that is not in
//! it, or one that no longer is, fails the test.

use std::path::Path;

use kcm_core::bpf::verifier::{Options, verify};
use kcm_core::{Object, bpf::program::ProgramKind};
use kcm_tests::objects::{is_for_a_kernel, sound};
use prevail::crab::ebpf_domain::DomainContext;
use prevail::crab::var_registry::VariableRegistry;
use prevail::ir::{program::Program, unmarshal};
use prevail::linux::linux_platform::LinuxPlatform;
use prevail::spec::config::EbpfVerifierOptions;
use prevail::{elf_loader, fwd_analyzer};

/// Programs that ours accepts and PREVAIL does not, with a part of what it says, and why.
const PREVAIL_IS_STRICTER: &[(&str, &str, &str)] = &[
    (
        "calls/framed",
        "Upper bound must be at most total_stack_size",
        "memcpy's loop ends at the length it is given; PREVAIL forgets that length in the loop \
         and assumes its constant bound",
    ),
    ("calls/framed_twice", "Upper bound must be at most total_stack_size", "as calls/framed"),
    ("calls_without_btf/framed", "Upper bound must be at most total_stack_size", "as calls/framed"),
    (
        "calls_without_btf/framed_twice",
        "Upper bound must be at most total_stack_size",
        "as calls/framed",
    ),
    (
        "calls/looped",
        "r2.type == func",
        "a static callback's address is not recognised by its loader",
    ),
    ("calls_without_btf/looped", "r2.type == func", "as calls/looped"),
    (
        "rust/logging/logging",
        "r1.type in",
        "it allows no arithmetic on a reserved ring-buffer record; kernels do, within its size",
    ),
    (
        "maps/counted",
        "r1.type == map_fd",
        "a static map, named by an offset in its section, is not recognised by its loader",
    ),
];

/// Programs that ours rejects and PREVAIL does not, and why.
const OURS_IS_STRICTER: &[(&str, &str)] =
    &[("many/four", "stream verdicts are for a kernel's sockets; no message is parsed by one")];

/// Objects that it is not asked about, and why.
const NOT_ASKED: &[(&str, &str)] = &[("resp", "it had not ended after two minutes")];

fn prevail(path: &Path, section: &str, name: &str) -> Result<(), String> {
    // It would make real maps otherwise.
    let options = EbpfVerifierOptions { mock_map_fds: true, ..Default::default() };
    let mut platform = LinuxPlatform::new();
    let path = path.display().to_string();
    let mut found = elf_loader::read_elf_file(&path, section, name, &options, &mut platform)
        .map_err(|e| e.0)?;
    let raw = found.iter_mut().find(|p| p.function_name == name).ok_or("no such program")?;
    platform.map_descriptors = raw.info.map_descriptors.clone();
    platform.set_program_type(&raw.info.program_type);
    let mut notes = Vec::new();
    let insns = unmarshal::unmarshal(&raw.prog, &mut notes, &raw.info, &platform, &options)
        .map_err(|e| format!("{e:?}"))?;
    let program = Program::from_sequence(&insns, &mut raw.info, &platform, &options)
        .map_err(|e| format!("{e:?}"))?;
    let context = DomainContext {
        program_info: &raw.info,
        program: &program,
        runtime: &options.runtime,
        options: &options,
        platform: &platform,
    };
    let result = fwd_analyzer::analyze(&program, &context, &mut VariableRegistry::new());
    match result.failed {
        false => Ok(()),
        true => Err(result.find_first_error().map_or_else(String::new, |e| e.to_string())),
    }
}

#[test]
fn prevail_agrees_or_the_difference_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("object.o");
    let (mut agreed, mut explained) = (0, 0);
    for (object_name, bytes) in sound() {
        if let Some((_, why)) = NOT_ASKED.iter().find(|(name, _)| *name == object_name) {
            println!("{object_name}: not asked: {why}");
            continue;
        }
        std::fs::write(&path, &bytes).unwrap();
        let object = Object::parse(&bytes).unwrap();
        for info in object.programs().filter(|p| !is_for_a_kernel(p)) {
            let name = format!("{object_name}/{}", info.name);
            let our = verify(object.program(info.name).unwrap(), &Options::default());
            let their = prevail(&path, info.section, info.name);
            let stricter = PREVAIL_IS_STRICTER.iter().find(|row| row.0 == name);
            let laxer = OURS_IS_STRICTER.iter().find(|row| row.0 == name);
            match (&our, &their) {
                (Ok(_), Ok(())) | (Err(_), Err(_)) => {
                    assert!(stricter.is_none() && laxer.is_none(), "{name} is explained and alike");
                    agreed += 1;
                }
                (Ok(_), Err(e)) => {
                    let Some((_, says, why)) = stricter else {
                        panic!("{name}: accepted here, and PREVAIL says {e}");
                    };
                    assert!(e.contains(says), "{name}: expected PREVAIL to say {says:?}: {e}");
                    println!("{name}: PREVAIL stricter: {why}");
                    explained += 1;
                }
                (Err(e), Ok(())) => {
                    let Some((_, why)) = laxer else { panic!("{name}: PREVAIL accepts it: {e}") };
                    assert!(info.kind == ProgramKind::StreamVerdict, "{name}: {e}");
                    println!("{name}: ours stricter: {why}");
                    explained += 1;
                }
            }
        }
    }
    println!("{agreed} alike, {explained} differ as explained");
    assert!(agreed >= 18, "only {agreed} alike");
}
