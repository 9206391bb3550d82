//! What is accepted runs: in checked mode, which shares nothing with the verifier and holds its
//! claims against what happens, no accepted program is ever stopped.

use proptest::prelude::*;

use super::{
    pruning::{Step, cases, step, text},
    *,
};
use crate::bpf::{
    checked::{Env, Machine, Reason},
    run::Executable,
};

/// Steps of one run: loops that take longer are left there.
const STEPS: u64 = 100_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn accepted_programs_are_never_stopped(
        steps in prop::collection::vec(step(), 4..40),
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 8),
        small in prop::collection::vec(prop::collection::vec(0u8..20, 8..40), 8),
    ) {
        let all: Vec<&[u8]> = messages.iter().chain(&small).map(Vec::as_slice).collect();
        never_stopped(&steps, &all)?;
    }
}

/// Verifies a program in all ways, and runs those that are accepted on some messages.
pub(super) fn never_stopped(steps: &[Step], messages: &[&[u8]]) -> Result<(), TestCaseError> {
    let text = text(steps);
    let p = program(ProgramKind::StreamParser, &text);
    let code = Code::check(&p).map_err(|(at, r)| TestCaseError::fail(format!("{at}: {r}")))?;
    let entry = entry(&p, &Options::default()).unwrap();
    let widened = |mode| {
        let needs = needs::needs(&p, &code, mode == Mode::Forget { ends: true });
        Explorer::new(&p, &code, &needs, 100_000, mode, None)
            .run(entry)
            .ok()
            .map(|facts| Verified { program: p.clone(), facts, entry: Entry::Context })
    };
    // As it would be verified, and with every loop widened.
    let verdicts = [
        verify(p.clone(), &Options::default()).ok(),
        widened(Mode::Widen),
        widened(Mode::Forget { ends: true }),
        widened(Mode::Forget { ends: false }),
    ];
    for v in verdicts.into_iter().flatten() {
        let fuel = v.facts().fuel.clone();
        let maps = Executable::make_maps(&v).unwrap();
        let machine = Machine::new(&v).limit(STEPS);
        for msg in messages {
            let env = Env { msg, maps: &maps, cookie: 0, slot: 0 };
            match machine.run(&env) {
                Ok(_) => {}
                Err(t) if matches!(t.reason, Reason::Steps(_)) => {}
                Err(t) => prop_assert!(false, "{t} on {msg:02x?} ({fuel:?})\n{text}"),
            }
        }
    }
    Ok(())
}
