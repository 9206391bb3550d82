//! `cargo xtask tidy`: the rules of this repository that no compiler checks.
//!
//! Where a rule must be broken, say why: `// tidy-allow(RULE): reason` on the line or just
//! above it (rules about lines) or in the first 30 lines (rules about files).

mod source;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sh::root;
use source::{Line, Token, lines, paths, tokens};

/// Options of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// The longest a file may be without a reason, in lines.
const MAX_LINES: usize = 800;

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: String,
    /// From 1; 0 speaks of the whole file.
    line: usize,
    rule: &'static str,
    what: String,
}

/// Checks every file of the repository; prints what breaks a rule.
pub(crate) fn run(_: Args) -> Result<()> {
    let root = root();
    let mut found = Vec::new();
    let mut seen = 0;
    let private = private_paths();
    let mut texts = Vec::new();
    for path in files(&root)? {
        let rel = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        // What is no text has no rules.
        texts.extend(std::fs::read_to_string(&path).map(|text| (rel, text)));
    }
    let tests = test_modules(&texts);
    for (rel, text) in texts {
        seen += 1;
        found.extend(check_text(&rel, &text, &private));
        if rel.ends_with(".rs") {
            found.extend(check_rust(&rel, &text, is_test(&rel, &tests)));
        } else if rel.ends_with("Cargo.toml") {
            found.extend(check_manifest(&rel, &text));
        }
    }
    found.extend(check_top(&root));
    for f in &found {
        eprintln!("{}:{}: {} ({})", f.file, f.line, f.what, f.rule);
    }
    if !found.is_empty() {
        bail!(
            "{} findings; mend them, or give a reason with `// tidy-allow(RULE): ...`",
            found.len()
        );
    }
    println!("tidy: {seen} files, nothing found");
    Ok(())
}

/// The repository's own files: the fixed top level, without build output.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    let mut todo = Vec::new();
    for e in std::fs::read_dir(root).context("could not list the workspace's root")? {
        let e = e?;
        let name = e.file_name().display().to_string();
        if e.file_type()?.is_file() {
            out.push(e.path());
        } else if ["kcm-core", "kcm-ebpf", "kcm-common", "xtask", "tests", "docs"]
            .contains(&name.as_str())
            || [".ci", ".cargo", ".github"].contains(&name.as_str())
        {
            todo.push(e.path());
        }
    }
    while let Some(dir) = todo.pop() {
        for e in std::fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
            let e = e?;
            if e.file_type()?.is_dir() {
                if e.file_name() != "target" {
                    todo.push(e.path());
                }
            } else {
                out.push(e.path());
            }
        }
    }
    out.sort();
    Ok(out)
}

/// Starts of paths that only exist on someone's machine, this checkout's among them.
fn private_paths() -> Vec<String> {
    let mut out: Vec<String> = ["home", "root", "Users"].iter().map(|d| format!("/{d}/")).collect();
    for dir in [root().display().to_string(), std::env::var("HOME").unwrap_or_default()] {
        if dir.len() > 3 {
            out.push(format!("{}/", dir.trim_end_matches('/')));
        }
    }
    out
}

/// Rules for every text file.
fn check_text(file: &str, text: &str, private: &[String]) -> Vec<Finding> {
    let mut out = Vec::new();
    if file == "Cargo.lock" {
        return out;
    }
    let all: Vec<&str> = text.lines().collect();
    for (n, l) in all.iter().enumerate() {
        if let Some(p) = private.iter().find(|p| l.contains(p.as_str()))
            && !allowed_text(&all, n, "machine-path")
        {
            out.push(Finding {
                file: file.into(),
                line: n + 1,
                rule: "machine-path",
                what: format!("{p} is a path of one machine"),
            });
        }
    }
    out
}

/// The modules in files of their own that are declared under `#[cfg(test)]`, as the paths of
/// their files without `.rs`.
fn test_modules(texts: &[(String, String)]) -> Vec<String> {
    let mut out = Vec::new();
    for (file, text) in texts.iter().filter(|(f, _)| f.ends_with(".rs")) {
        let stem = file.trim_end_matches(".rs");
        let folder =
            ["/mod", "/lib", "/main"].iter().find_map(|own| stem.strip_suffix(own)).unwrap_or(stem);
        for line in lines(text).iter().filter(|l| l.test) {
            // `mod x;`, perhaps behind its attribute on the same line.
            let words: Vec<&str> = line.code.split([' ', ']']).filter(|w| !w.is_empty()).collect();
            if let [.., "mod", name] = words[..]
                && let Some(name) = name.strip_suffix(';')
            {
                out.push(format!("{folder}/{name}"));
            }
        }
    }
    out
}

/// True for the file of a test module, and for the files of modules inside one.
fn is_test(file: &str, modules: &[String]) -> bool {
    modules.iter().any(|m| {
        file.strip_prefix(m.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    })
}

/// Rules for Rust files; `test` says that the whole file is test code.
fn check_rust(file: &str, text: &str, test: bool) -> Vec<Finding> {
    let mut l = lines(text);
    for line in &mut l {
        line.test |= test;
    }
    let t = tokens(&l);
    let mut out = Vec::new();
    check_header(file, &l, &mut out);
    check_rooms(file, &l, &t, &mut out);
    check_unsafe(file, &l, &t, &mut out);
    check_panics(file, &l, &t, &mut out);
    out
}

fn push(out: &mut Vec<Finding>, file: &str, line: usize, rule: &'static str, what: String) {
    out.push(Finding { file: file.into(), line, rule, what });
}

/// True if the line, or the comment lines just above it, allow `rule` and say why.
fn allowed(l: &[Line], line: usize, rule: &str) -> bool {
    let above =
        (0..line).rev().take_while(|&i| l[i].code.trim().is_empty() && !l[i].comment.is_empty());
    std::iter::once(line).chain(above).any(|i| gives_reason(&l[i].comment, rule))
}

fn allowed_text(l: &[&str], line: usize, rule: &str) -> bool {
    gives_reason(l[line], rule) || (line > 0 && gives_reason(l[line - 1], rule))
}

/// `tidy-allow(RULE): ` and at least a few words.
fn gives_reason(comment: &str, rule: &str) -> bool {
    comment
        .split_once(&format!("tidy-allow({rule}):"))
        .is_some_and(|(_, reason)| reason.trim().len() >= 8)
}

/// A file says what it is for, and is not too long to be read.
fn check_header(file: &str, l: &[Line], out: &mut Vec<Finding>) {
    if !l.iter().any(|x| x.comment.starts_with("//!") || x.comment.starts_with("/*!")) {
        push(out, file, 1, "module-doc", "no `//!` line says what this file is for".into());
    }
    // The last, empty piece after the final newline is no line.
    let count = l.len() - usize::from(l.last().is_some_and(|x| x.code.is_empty()));
    if count > MAX_LINES && !l.iter().take(30).any(|x| gives_reason(&x.comment, "length")) {
        push(out, file, 1, "length", format!("{count} lines, more than {MAX_LINES}"));
    }
}

/// What a room of kcm-core may not name. A path is forbidden if it is one of these or starts
/// with one and `::`.
const ROOMS: &[(&str, &[&str])] = &[
    (
        "kcm-core/src/bpf",
        &["crate::mux", "crate::strparser", "crate::net", "crate::blocking", "crate::kernel"],
    ),
    ("kcm-core/src/mux", PURE),
    ("kcm-core/src/strparser", PURE),
    (
        "kcm-core/src/delineate.rs",
        &[
            "crate::bpf",
            "crate::mux",
            "crate::strparser",
            "crate::net",
            "crate::blocking",
            "crate::kernel",
            "tokio",
            "std::net",
        ],
    ),
    ("kcm-common/src", &["std", "tokio", "kcm_core"]),
];

const PURE: &[&str] = &[
    "crate::net",
    "crate::blocking",
    "crate::kernel",
    "crate::bpf",
    "tokio",
    "socket2",
    "std::net",
    "std::os::fd",
    "std::time::Instant::now",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
];

/// Files that must carry an attribute.
const ATTRIBUTES: &[(&str, &str)] = &[
    ("kcm-core/src/lib.rs", "#![deny(unsafe_code)]"),
    ("kcm-core/src/bpf/verifier/mod.rs", "#![forbid(unsafe_code)]"),
    ("kcm-common/src/lib.rs", "#![no_std]"),
];

/// The arrows between rooms: see ARCHITECTURE.md.
fn check_rooms(file: &str, l: &[Line], t: &[Token], out: &mut Vec<Finding>) {
    for (f, attribute) in ATTRIBUTES {
        if file == *f && !l.iter().any(|x| x.code.trim() == *attribute) {
            push(out, file, 1, "rooms", format!("this file must say {attribute}"));
        }
    }
    let Some((room, forbidden)) = ROOMS.iter().find(|(room, _)| {
        file.strip_prefix(room)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
    }) else {
        return;
    };
    for (p, line) in paths(t) {
        let p = absolute(file, &p);
        let hit = forbidden
            .iter()
            .find(|f| p == **f && f.contains("::") || p.starts_with(&format!("{f}::")));
        if let Some(f) = hit
            && !l[line].test
            && !allowed(l, line, "rooms")
        {
            push(out, file, line + 1, "rooms", format!("{room} must not know {f} (names {p})"));
        }
    }
}

/// `super::x` in a file of kcm-core as `crate::...::x`, as far as the file's place tells.
fn absolute(file: &str, p: &str) -> String {
    let Some(rest) = p.strip_prefix("super::") else { return p.to_owned() };
    let Some(place) = file.split_once("src/").map(|(_, f)| f.trim_end_matches(".rs")) else {
        return p.to_owned();
    };
    let mut module: Vec<&str> = place.split('/').filter(|m| *m != "mod" && *m != "lib").collect();
    module.pop();
    let mut rest = rest;
    while let Some(r) = rest.strip_prefix("super::") {
        module.pop();
        rest = r;
    }
    let mut out = String::from("crate::");
    for m in module {
        out.push_str(m);
        out.push_str("::");
    }
    out + rest
}

/// Every unsafe block and impl names its proof; every unsafe fn and trait says what it asks.
fn check_unsafe(file: &str, l: &[Line], t: &[Token], out: &mut Vec<Finding>) {
    for (i, w) in t.iter().enumerate().filter(|(_, w)| w.text == "unsafe") {
        let next = |n: usize| t.get(i + n).map_or("", |t| t.text.as_str());
        // `unsafe extern "C" fn`: a literal is two quotes by now.
        let mut skip = 1;
        if next(skip) == "extern" {
            skip += 1;
            while next(skip) == "\"" {
                skip += 1;
            }
        }
        let (want, ok) = match next(skip) {
            "fn" if next(skip + 1) == "(" => continue, // a pointer's type
            "fn" | "trait" => {
                let said = documented(l, w.line, &["# Safety", "SAFETY:"]);
                ("a `# Safety` section", said)
            }
            "(" => continue, // an attribute: #[unsafe(no_mangle)]
            _ => ("a `// SAFETY:` comment", documented(l, w.line, &["SAFETY:"])),
        };
        if !ok && !allowed(l, w.line, "safety") {
            push(out, file, w.line + 1, "safety", format!("unsafe without {want}"));
        }
    }
}

/// True if the comment on the line, or the block of comments, attributes and the rest of the
/// same statement above it, holds one of `words`.
fn documented(l: &[Line], line: usize, words: &[&str]) -> bool {
    let says = |i: usize| words.iter().any(|w| l[i].comment.contains(w));
    if says(line) || l.get(line + 1).is_some_and(|x| x.code.trim().is_empty()) && says(line + 1) {
        return true;
    }
    let mut i = line;
    while i > 0 {
        i -= 1;
        if says(i) {
            return true;
        }
        let code = l[i].code.trim();
        let ends_before = code.ends_with([';', '{', '}', ',']) && !code.starts_with("#[");
        if ends_before || code.is_empty() && l[i].comment.is_empty() {
            return false;
        }
    }
    false
}

/// Code that meets foreign bytes does not panic.
fn check_panics(file: &str, l: &[Line], t: &[Token], out: &mut Vec<Finding>) {
    let input_path =
        ["kcm-core/src/", "kcm-common/src/", "kcm-ebpf/src/"].iter().any(|d| file.starts_with(d))
            && !file.contains("/src/bin/");
    if !input_path {
        return;
    }
    for (i, w) in t.iter().enumerate() {
        let prev = if i == 0 { "" } else { &t[i - 1].text };
        let next = t.get(i + 1).map_or("", |t| t.text.as_str());
        let what = match w.text.as_str() {
            "unwrap" | "expect" | "unwrap_err" if prev == "." && next == "(" => &w.text,
            "panic" | "todo" | "unimplemented" | "unreachable" if next == "!" => &w.text,
            _ => continue,
        };
        if !l[w.line].test && !allowed(l, w.line, "panic") {
            push(out, file, w.line + 1, "panic", format!("`{what}` on an input path"));
        }
    }
}

/// Every crate inherits licence, edition, MSRV and lints, so that each is stated once.
fn check_manifest(file: &str, text: &str) -> Vec<Finding> {
    let mut out = Vec::new();
    let Ok(doc) = text.parse::<toml::Table>() else {
        push(&mut out, file, 0, "manifest", "no TOML".into());
        return out;
    };
    let get = |path: &[&str]| -> Option<&toml::Value> {
        let (last, dirs) = path.split_last()?;
        let mut t = &doc;
        for d in dirs {
            t = t.get(*d)?.as_table()?;
        }
        t.get(*last)
    };
    if doc.contains_key("workspace") {
        for key in ["license", "rust-version", "edition"] {
            if get(&["workspace", "package", key]).is_none() {
                push(&mut out, file, 0, "manifest", format!("workspace.package.{key} is missing"));
            }
        }
        if get(&["workspace", "package", "license"]).and_then(|v| v.as_str())
            != Some("Apache-2.0 OR MIT")
        {
            push(&mut out, file, 0, "manifest", "the licence is Apache-2.0 OR MIT".into());
        }
    } else if doc.contains_key("package") && file.matches('/').count() == 1 {
        for key in ["license", "rust-version", "edition", "version"] {
            if get(&["package", key, "workspace"]).is_none() {
                push(&mut out, file, 0, "manifest", format!("package.{key} is not inherited"));
            }
        }
        if get(&["lints", "workspace"]).is_none() {
            push(&mut out, file, 0, "manifest", "[lints] workspace = true is missing".into());
        }
    }
    out
}

/// What must stand at the top of the repository.
fn check_top(root: &Path) -> Vec<Finding> {
    let mut out = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "LICENSE-APACHE", "LICENSE-MIT"]
    {
        if !root.join(name).is_file() {
            push(&mut out, name, 0, "top", "the file is missing".into());
        }
    }
    let log = std::fs::read_to_string(root.join("CHANGELOG.md")).unwrap_or_default();
    if !log.lines().any(|l| l.trim() == "## [Unreleased]") {
        push(&mut out, "CHANGELOG.md", 0, "top", "no `## [Unreleased]` section".into());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(file: &str, body: &str) -> Vec<(&'static str, usize)> {
        let text = format!("//! For the test.\n{body}\n");
        check_rust(file, &text, false).into_iter().map(|f| (f.rule, f.line)).collect()
    }

    #[test]
    fn a_pure_room_that_names_the_network_is_found() {
        for body in [
            "use tokio::sync::Notify;",
            "use std::net::TcpStream;",
            "use std::{fmt, net::TcpStream};",
            "use crate::{net::Psock, delineate};",
            "use crate::net;",
            "use super::super::net::Psock;",
            "fn f() { let t = std::time::Instant::now(); }",
            "fn f() { let t = Instant::now(); }",
        ] {
            assert_eq!(rules("kcm-core/src/mux/steer.rs", body), [("rooms", 2)], "{body}");
        }
        assert_eq!(rules("kcm-core/src/bpf/interp.rs", "use crate::mux::Mux;"), [("rooms", 2)]);
        assert_eq!(rules("kcm-common/src/x.rs", "use std::fmt;"), [("rooms", 2)]);
    }

    #[test]
    fn what_the_arrows_allow_is_not_found() {
        assert_eq!(rules("kcm-core/src/mux/mod.rs", "use crate::delineate::Verdict;"), []);
        assert_eq!(rules("kcm-core/src/mux.rs", "use std::time::Instant;"), []);
        assert_eq!(rules("kcm-core/src/net/mod.rs", "use tokio::net::TcpStream;"), []);
        assert_eq!(rules("kcm-core/src/bpf/x.rs", "fn network() { let net = 1; }"), []);
        assert_eq!(rules("kcm-core/src/mux/x.rs", "/// As in tokio::sync\nfn f() {}"), []);
        assert_eq!(rules("kcm-core/src/mux/x.rs", "#[cfg(test)]\nmod t { use std::net::X; }"), []);
        assert_eq!(
            rules(
                "kcm-core/src/mux/x.rs",
                "// tidy-allow(rooms): only the type is named here\nuse std::net::SocketAddr;"
            ),
            []
        );
    }

    #[test]
    fn a_file_of_tests_is_known_by_its_declaration() {
        let t = |f: &str, s: &str| (f.to_owned(), s.to_owned());
        let texts = [
            t("a/src/x/mod.rs", "mod real;\n#[cfg(test)]\nmod tests;\n"),
            t("a/src/y.rs", "#[cfg(test)] mod model;\n"),
            t("a/src/lib.rs", "#[cfg(test)]\nmod z { mod not_a_file {} }\n"),
        ];
        let modules = test_modules(&texts);
        assert_eq!(modules, ["a/src/x/tests", "a/src/y/model"]);
        assert!(is_test("a/src/x/tests.rs", &modules));
        assert!(is_test("a/src/x/tests/deep.rs", &modules));
        assert!(!is_test("a/src/x/real.rs", &modules));
        assert!(!is_test("a/src/x/tests_of_that.rs", &modules));
        let clock = "//! T.\nfn f() { std::time::Instant::now(); x.unwrap(); }\n";
        assert_eq!(check_rust("kcm-core/src/mux/tests.rs", clock, true), []);
        assert_eq!(check_rust("kcm-core/src/mux/tests.rs", clock, false).len(), 2);
    }

    #[test]
    fn a_room_that_lost_its_attribute_is_found() {
        assert_eq!(rules("kcm-core/src/bpf/verifier/mod.rs", "fn f() {}"), [("rooms", 1)]);
        assert_eq!(rules("kcm-core/src/bpf/verifier/mod.rs", "#![forbid(unsafe_code)]"), []);
    }

    #[test]
    fn unsafe_without_its_proof_is_found() {
        for body in [
            "fn f() { unsafe { g() } }",
            "unsafe impl Send for X {}",
            "/// Does it.\npub unsafe fn f() {}",
            "unsafe extern \"C\" fn f() {}",
            "// SAFETY: of another\nlet a = 1;\nlet b = unsafe { g() };",
        ] {
            let r = rules("tests/src/x.rs", body);
            assert!(matches!(r[..], [("safety", _)]), "{body}: {r:?}");
        }
        for body in [
            "fn f() {\n    // SAFETY: g asks for nothing.\n    unsafe { g() }\n}",
            "// SAFETY: two lines\n// of reasons.\nunsafe impl Send for X {}",
            "// SAFETY: yes.\nlet x =\n    unsafe { g() };",
            "/// Does it.\n///\n/// # Safety\n/// Nothing asked.\n#[inline]\npub unsafe fn f() {}",
            "type F = unsafe extern \"C\" fn(u32);\ntype G = unsafe fn();",
            "#[unsafe(no_mangle)]\nfn f() {}",
            "fn f() { unsafe {\n    // SAFETY: inside.\n    g() } }",
            "let s = \"unsafe\"; // unsafe",
        ] {
            assert_eq!(rules("tests/src/x.rs", body), [], "{body}");
        }
    }

    #[test]
    fn a_panic_on_an_input_path_is_found() {
        for body in ["fn f() { x.unwrap(); }", "fn f() { x.expect(\"y\") }", "fn f() { todo!() }"] {
            assert_eq!(rules("kcm-core/src/net/x.rs", body), [("panic", 2)], "{body}");
            assert_eq!(rules("xtask/src/x.rs", body), [], "{body}");
        }
        for body in [
            "#[cfg(test)]\nmod tests {\n    fn f() { x.unwrap(); }\n}",
            "/// `x.unwrap()`\nfn f() { x.unwrap_or(1) }",
            "fn f() { x.unwrap() } // tidy-allow(panic): the length was checked above",
        ] {
            assert_eq!(rules("kcm-core/src/net/x.rs", body), [], "{body}");
        }
        let no_reason = "fn f() { x.unwrap() } // tidy-allow(panic):";
        assert_eq!(rules("kcm-core/src/net/x.rs", no_reason), [("panic", 2)]);
    }

    #[test]
    fn a_file_without_purpose_or_measure_is_found() {
        let f = check_rust("tests/src/x.rs", "fn f() {}\n", false);
        assert_eq!(f[0].rule, "module-doc");
        let long = "fn f() {}\n".repeat(MAX_LINES);
        assert_eq!(rules("tests/src/x.rs", &long), [("length", 1)]);
        assert_eq!(rules("tests/src/x.rs", &long[10..]), [("length", 1)]);
        assert_eq!(rules("tests/src/x.rs", &long[20..]), []);
        let said = format!("// tidy-allow(length): one table, one file\n{long}");
        assert_eq!(rules("tests/src/x.rs", &said), []);
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        let private = private_paths();
        let bad = format!("run /{}/me/x", "home");
        assert_eq!(check_text("README.md", &bad, &private)[0].rule, "machine-path");
        assert_eq!(check_text("README.md", "run /usr/bin/x", &private), []);
        let here = format!("{}/x", root().display());
        assert_eq!(check_text("README.md", &here, &private).len(), 1);
    }

    #[test]
    fn a_manifest_that_states_its_own_terms_is_found() {
        let bad = "[package]\nname = \"x\"\nversion.workspace = true\nedition = \"2021\"\n";
        let what: Vec<String> =
            check_manifest("x/Cargo.toml", bad).into_iter().map(|f| f.what).collect();
        assert_eq!(what.len(), 4, "{what:?}"); // edition, licence, rust-version, lints
        assert_eq!(check_manifest("x/Cargo.toml", "[package").len(), 1);
    }

    #[test]
    fn a_missing_unreleased_section_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("CHANGELOG.md"), "# Changes\n").unwrap();
        assert!(check_top(dir.path()).iter().any(|f| f.file == "CHANGELOG.md"));
        std::fs::write(dir.path().join("CHANGELOG.md"), "## [Unreleased]\n").unwrap();
        assert!(!check_top(dir.path()).iter().any(|f| f.file == "CHANGELOG.md"));
    }

    #[test]
    fn build_output_is_no_file_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        for d in ["xtask/src", "xtask/target", "my-proto", ".git"] {
            std::fs::create_dir_all(dir.path().join(d)).unwrap();
            std::fs::write(dir.path().join(d).join("a.rs"), "").unwrap();
        }
        let f = files(dir.path()).unwrap();
        assert_eq!(f, [dir.path().join("xtask/src/a.rs")]);
    }
}
