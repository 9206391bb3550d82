//! Cutting paths off changes no verdict: what is accepted with cut-offs or widening is accepted
//! when every path is walked to its end, and every fact holds there too.

use proptest::prelude::*;

use super::*;

/// A step of a generated program; registers 2 to 5 and 7 to 9 hold numbers.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Imm(u8, i32),
    Copy(u8, u8, bool),
    Op(u8, &'static str, Result<u8, i32>, bool),
    /// A byte of the message.
    Unknown(u8, u8),
    /// Eight bytes of the message.
    Wide(u8),
    Extend(u8, u8, &'static str),
    Spill(u8, u8),
    SpillByte(u8, u8),
    Fill(u8, u8),
    FillByte(u8, u8),
    /// Skips as many of the following steps.
    Skip(&'static str, u8, Result<u8, i32>, bool, u8),
    /// Goes back as many steps while a counter is below a bound.
    Back(u8, i32, u8),
    /// Reads the map value at a register, if that is small enough, or anyway.
    Use(u8, Option<i32>),
    /// Reads the stack at a register likewise.
    UseStack(u8, Option<i32>),
    Packet(u8, u8),
    Loads(u8, u8),
}

fn reg() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![2u8, 3, 4, 5, 7, 8, 9])
}

fn small() -> impl Strategy<Value = i32> {
    prop::sample::select(vec![0, 1, 2, 3, 7, 8, 12, 15, 16, -1])
}

fn source() -> impl Strategy<Value = Result<u8, i32>> {
    prop_oneof![reg().prop_map(Ok), small().prop_map(Err)]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let op = prop::sample::select(vec![
        "add", "sub", "and", "or", "xor", "mul", "rsh", "lsh", "arsh", "div", "mod", "sdiv", "smod",
    ]);
    let jump = prop::sample::select(vec![
        "jeq", "jne", "jgt", "jge", "jlt", "jle", "jsgt", "jslt", "jset",
    ]);
    prop_oneof![
        2 => (reg(), small()).prop_map(|(r, i)| Step::Imm(r, i)),
        3 => (reg(), reg(), any::<bool>()).prop_map(|(a, b, w)| Step::Copy(a, b, w)),
        4 => (reg(), op, source(), any::<bool>()).prop_map(|(r, o, s, w)| Step::Op(r, o, s, w)),
        3 => (reg(), 0u8..4).prop_map(|(r, o)| Step::Unknown(r, o)),
        1 => reg().prop_map(Step::Wide),
        1 => (reg(), reg(), prop::sample::select(vec!["movsx832", "movsx1664", "movsx3264"]))
            .prop_map(|(a, b, m)| Step::Extend(a, b, m)),
        2 => (reg(), 0u8..4).prop_map(|(r, s)| Step::Spill(r, s)),
        1 => (reg(), 0u8..4).prop_map(|(r, s)| Step::SpillByte(r, s)),
        2 => (reg(), 0u8..4).prop_map(|(r, s)| Step::Fill(r, s)),
        1 => (reg(), 0u8..4).prop_map(|(r, s)| Step::FillByte(r, s)),
        6 => (jump, reg(), source(), any::<bool>(), 1u8..6)
            .prop_map(|(j, r, s, w, n)| Step::Skip(j, r, s, w, n)),
        1 => (reg(), 2i32..5, 1u8..8).prop_map(|(r, b, n)| Step::Back(r, b, n)),
        2 => (reg(), prop::option::weighted(0.8, 14i32..17)).prop_map(|(r, g)| Step::Use(r, g)),
        1 => (reg(), prop::option::weighted(0.8, 30i32..33)).prop_map(|(r, g)| Step::UseStack(r, g)),
        1 => (reg(), 1u8..6).prop_map(|(r, n)| Step::Packet(r, n)),
        1 => (reg(), 0u8..4).prop_map(|(r, s)| Step::Loads(r, s)),
    ]
}

pub(super) fn text(steps: &[Step]) -> String {
    let s = |s: &Result<u8, i32>| match s {
        Ok(r) => format!("%r{r}"),
        Err(i) => i.to_string(),
    };
    let w = |w: &bool| if *w { "32" } else { "" };
    // The first bytes of the message, or zeros: numbers of which nothing is known.
    let mut out =
        "mov %r6, %r1\nmov %r2, 0\nmov %r3, %r10\nadd %r3, -80\nmov %r4, 8\ncall 26\n".to_owned();
    for slot in 1..=4 {
        out += &format!("stdw [%r10-{}], 0\n", 8 * slot);
    }
    for r in [2, 3, 4, 5, 7, 8, 9] {
        out += &format!("mov %r{r}, 0\n");
    }
    for (i, step) in steps.iter().enumerate() {
        out += &format!("s{i}:\n");
        out += &match step {
            Step::Imm(r, v) => format!("mov %r{r}, {v}"),
            Step::Copy(a, b, n) => format!("mov{} %r{a}, %r{b}", w(n)),
            Step::Op(r, o, v, n) => format!("{o}{} %r{r}, {}", w(n), s(v)),
            Step::Unknown(r, o) => format!("ldxb %r{r}, [%r10-{}]", 80 - o),
            Step::Wide(r) => format!("ldxdw %r{r}, [%r10-80]"),
            Step::Extend(a, b, m) => format!("{m} %r{a}, %r{b}"),
            Step::Spill(r, k) => format!("stxdw [%r10-{}], %r{r}", 8 * (k + 1)),
            Step::SpillByte(r, k) => format!("stxb [%r10-{}], %r{r}", 8 * (k + 1)),
            Step::Fill(r, k) => format!("ldxdw %r{r}, [%r10-{}]", 8 * (k + 1)),
            Step::FillByte(r, k) => format!("ldxb %r{r}, [%r10-{}]", 8 * (k + 1)),
            Step::Skip(j, r, v, n, by) => {
                let to = i + 1 + usize::from(*by);
                let to = if to < steps.len() { format!("s{to}") } else { "end".to_owned() };
                format!("{j}{} %r{r}, {}, {to}", w(n), s(v))
            }
            Step::Back(r, bound, by) => {
                let to = i.saturating_sub(usize::from(*by));
                format!("add %r{r}, 1\njlt %r{r}, {bound}, s{to}")
            }
            Step::Use(r, guard) => {
                let guard = guard.map_or(String::new(), |g| format!("jgt %r{r}, {g}, u{i}\n"));
                format!("{guard}lddw %r0, map[0]+0\nadd %r0, %r{r}\nldxb %r0, [%r0+0]\nu{i}:")
            }
            Step::UseStack(r, guard) => {
                let guard = guard.map_or(String::new(), |g| format!("jgt %r{r}, {g}, u{i}\n"));
                format!("{guard}mov %r0, %r10\nadd %r0, -32\nadd %r0, %r{r}\nldxb %r0, [%r0+0]\nu{i}:")
            }
            // Needs three free registers: r0, r1 and the one read into.
            Step::Packet(r, n) => format!(
                "ldxw %r0, [%r6+76]\nadd %r0, %r{r}\nmov %r1, %r0\nadd %r1, {n}
                 stxdw [%r10-40], %r1\nldxw %r1, [%r6+80]\nldxdw %r{r}, [%r10-40]
                 jgt %r{r}, %r1, u{i}\nldxb %r{r}, [%r0+{}]\nja v{i}\nu{i}:\nmov %r{r}, 1\nv{i}:",
                n - 1
            ),
            Step::Loads(r, k) => format!(
                "stxdw [%r10-48], %r2\nstxdw [%r10-56], %r3\nstxdw [%r10-64], %r4\nstxdw [%r10-72], %r5
                 mov %r1, %r6\nmov %r2, %r{r}\nmov %r3, %r10\nadd %r3, -{}\nmov %r4, 4\ncall 26
                 ldxdw %r2, [%r10-48]\nldxdw %r3, [%r10-56]\nldxdw %r4, [%r10-64]\nldxdw %r5, [%r10-72]\nmov %r{r}, %r0",
                8 * (k + 1)
            ),
        };
        out.push('\n');
    }
    out + "end:\nmov %r0, 0\nexit\n"
}

fn explore(program: &Program, code: &Code, mode: Mode, budget: u64) -> Option<Result<Facts, Rule>> {
    let entry = entry(program, &Options::default()).unwrap();
    let needs = needs::needs(program, code, matches!(mode, Mode::Forget { ends: true }));
    match Explorer::new(program, code, &needs, budget, mode, None).run(entry) {
        Ok(f) => Some(Ok(f)),
        Err((Some(e), _)) => Some(Err(e.rule)),
        Err((None, _)) => None,
    }
}

/// What is claimed of every path holds on the paths that were walked.
fn claims_hold(claimed: &Facts, walked: &Facts) -> Result<(), String> {
    for at in 0..walked.reached.len() {
        let fail = |what: &str| Err(format!("{what} at {at}"));
        if walked.reached[at] && !claimed.reached[at] {
            return fail("dead code is reached");
        }
        let (c, w) = (claimed.taken[at], walked.taken[at]);
        if (w.jump && !c.jump) || (w.fall && !c.fall) {
            return fail("a branch goes where it was said not to");
        }
        match (claimed.region[at], walked.region[at]) {
            (_, None) | (Some(Region::Mixed), Some(_)) => {}
            (Some(Region::Stack { offset: None }), Some(Region::Stack { .. })) => {}
            (c, w) if c == w => {}
            _ => return fail("an access goes elsewhere"),
        }
        if let (Some(c), Some(w)) = (&claimed.calls[at], &walked.calls[at]) {
            for i in 0..5 {
                if c.consts[i].is_some() && c.consts[i] != w.consts[i] {
                    return fail("an argument is not constant");
                }
                if c.stack[i].is_some() && c.stack[i] != w.stack[i] {
                    return fail("an argument is elsewhere in the stack");
                }
            }
        }
    }
    if walked.stack_depth > claimed.stack_depth {
        return Err("the stack is deeper".to_owned());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn cutting_paths_off_changes_no_verdict(steps in prop::collection::vec(step(), 4..40)) {
        let text = text(&steps);
        let p = program(ProgramKind::StreamParser, &text);
        let code = Code::check(&p).map_err(|(at, r)| TestCaseError::fail(format!("{at}: {r}")))?;
        let Some(all) = explore(&p, &code, Mode::Everything, 60_000) else { return Ok(()) };
        let walk = explore(&p, &code, Mode::Walk, 60_000);
        match (&all, &walk) {
            (_, None) | (_, Some(Err(Rule::InfiniteLoop))) => {}
            (Ok(a), Some(Ok(w))) => {
                if let Err(e) = claims_hold(w, a) {
                    prop_assert!(false, "walked: {e}\n{text}");
                }
            }
            (Err(e), Some(Ok(_))) => prop_assert!(false, "walking missed: {e}\n{text}"),
            (Ok(_), Some(Err(e))) => prop_assert!(false, "walking invented: {e}\n{text}"),
            (Err(_), Some(Err(_))) => {}
        }
        for mode in [Mode::Forget { ends: true }, Mode::Forget { ends: false }, Mode::Widen] {
            let Some(Ok(w)) = explore(&p, &code, mode, 60_000) else { continue };
            match &all {
                Ok(a) => if let Err(e) = claims_hold(&w, a) {
                    prop_assert!(false, "{mode:?}: {e}\n{text}");
                },
                Err(e) => prop_assert!(false, "{mode:?} missed: {e}\n{text}"),
            }
        }
    }
}

/// More with VERIFIER_CASES set.
pub(super) fn cases() -> u32 {
    std::env::var("VERIFIER_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(1_000)
}
