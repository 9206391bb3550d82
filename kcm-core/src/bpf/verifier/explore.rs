//! Walks every path of a program, as the kernel's verifier does, and cuts off those that an
//! earlier walk already covers.
//!
//! **Checkpoints.** Where paths join, the state is kept. A path that arrives with a state that
//! a *finished* checkpoint covers (everything reached from it was walked and found safe) ends
//! there. Checkpoints form a tree: each path knows the one it came through last.
//!
//! **What covers what.** Two numbers need not agree where nothing that was proved depends on
//! them. Each number carries the set of numbers of the last checkpoint that it was computed
//! from (`deps`, one bit each). When a proof relies on a number (an offset added to a pointer,
//! a size, a branch found decided), those are marked *precise* in the checkpoint, and through
//! the checkpoint's own `deps` in all before it. Only precise numbers are compared. In the same
//! way only stack slots are compared that were read before they were written, and only
//! registers that are live.
//!
//! **Loops** are walked round by round until they end. Where that takes more than the budget,
//! everything is walked again with *widening*: every number counts as precise, a state covered
//! by any earlier one ends the path (finished or not: what holds for all states that cover
//! each other holds for all runs), and at loop heads what keeps changing is widened to the next
//! constant of the program, and at last to anything. That ends always, and proves every access,
//! but not that the program ends: that takes a counter (see `ends`), else it is metered.
//!
//! **Forgetting** is tried before that: what no proof is expected to need later (see `needs`) is
//! dropped where paths join, so that far fewer states differ. A state that knows less covers
//! more, so what is proved so is proved.

use super::{
    ends::{self, Move, Node, Way},
    error::{Rule, VerifyError},
    facts::{CallFact, Facts, Fuel, Region, Taken},
    needs::Need,
    scalar::Scalar,
    state::{
        Fit, Frame, IdMap, Kind, MAX_FRAMES, Origin, Reg, STACK_SIZE, State, reg_fits, stack_fits,
    },
    structure::Code,
    trace::Trace,
    widen,
};
use crate::bpf::{decode::Ins, program::Program};

/// No checkpoint.
pub(super) const NONE: u32 = u32::MAX;

/// States kept or left for later at one time: some 100 MB.
const MAX_STATES: u64 = 50_000;
/// Known states that one arrival is held against, and checkpoints that are looked back at.
const MAX_LOOK: usize = 4_096;

/// How far deps can tell numbers apart; all beyond share the last bit.
const LAST_DEP: usize = 127;

/// A kept state.
struct Checkpoint {
    /// `None` once it is finished and forgotten.
    state: Option<Box<State>>,
    at: u32,
    /// Numbers of the state (in `scalars` order) that proofs rely on.
    precise: u128,
    /// Slots read from here on before they were written, by frame.
    read: [u64; MAX_FRAMES],
    /// Paths from here that are not finished.
    open: u32,
    hits: u32,
    misses: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Round by round.
    Walk,
    /// Loops widened, and forgotten what proofs are not expected to need (see `needs`).
    Forget {
        /// Keeps what decides when loops end.
        ends: bool,
    },
    /// Loops widened.
    Widen,
    /// Round by round, and nothing cut off: what the others are held against.
    #[cfg(test)]
    Everything,
}

impl Mode {
    pub(super) fn widens(self) -> bool {
        matches!(self, Mode::Forget { .. } | Mode::Widen)
    }
}

/// What a step leads to.
pub(super) enum Flow {
    /// Go on here.
    Next(usize),
    /// The path ends.
    End,
}

/// Why a walk stopped early.
pub(super) enum Stop {
    /// A rule is broken.
    Rule(Rule),
    /// Round by round does not do: walk with widening.
    NeedsWidening,
}

impl From<Rule> for Stop {
    fn from(r: Rule) -> Stop {
        Stop::Rule(r)
    }
}

/// Facts under construction.
pub(super) struct Findings {
    pub(super) reached: Vec<bool>,
    pub(super) region: Vec<Option<Region>>,
    pub(super) taken: Vec<Taken>,
    pub(super) calls: Vec<Option<CallFact>>,
    /// Deepest byte used, by function.
    pub(super) frames: Vec<u16>,
}

pub(super) struct Explorer<'a> {
    pub(super) program: &'a Program,
    pub(super) code: &'a Code,
    pub(super) mode: Mode,
    pub(super) found: Findings,
    pub(super) trace: Option<&'a mut Trace>,
    checkpoints: Vec<Checkpoint>,
    /// Checkpoints that may cut paths off, by slot, newest last.
    known: Vec<Vec<u32>>,
    work: Vec<(State, usize)>,
    ids: IdMap,
    next_id: u32,
    explored: u64,
    budget: u64,
    /// Back edges that one call may take without being metered.
    pub(super) fuel: u64,
    live_states: u64,
    peak_states: u64,
    thresholds: widen::Thresholds,
    /// What proofs may need from each instruction on.
    needs: &'a [Need],
    /// Where loops are widened: how paths get from one checkpoint to the next.
    ways: Vec<Way>,
}

impl<'a> Explorer<'a> {
    pub(super) fn new(
        program: &'a Program,
        code: &'a Code,
        needs: &'a [Need],
        budget: u64,
        mode: Mode,
        trace: Option<&'a mut Trace>,
    ) -> Explorer<'a> {
        let n = code.ins.len();
        Explorer {
            program,
            code,
            mode,
            found: Findings {
                reached: vec![false; n],
                region: vec![None; n],
                taken: vec![Taken::default(); n],
                calls: vec![None; n],
                frames: vec![0; program.funcs.len()],
            },
            trace,
            checkpoints: Vec::new(),
            known: vec![Vec::new(); n],
            work: Vec::new(),
            ids: IdMap::default(),
            next_id: 0,
            explored: 0,
            budget,
            live_states: 0,
            peak_states: 0,
            fuel: super::FUEL,
            thresholds: widen::Thresholds::of(code),
            needs,
            ways: Vec::new(),
        }
    }

    /// Walks everything from this state of the main function's first instruction.
    pub(super) fn run(
        mut self,
        entry: [Reg; 11],
    ) -> Result<Facts, (Option<Box<VerifyError>>, u64)> {
        let mut frame = Frame::new(0, 0, NONE);
        frame.regs[..10].copy_from_slice(&entry[..10]);
        let state = State {
            frames: vec![frame],
            held: Vec::new(),
            sums: Vec::new(),
            parent: NONE,
            written: [0; MAX_FRAMES],
            insns: 0,
            jumps: 0,
        };
        self.work.push((state, 0));
        while let Some((mut st, at)) = self.work.pop() {
            if let Err((at, stop)) = self.walk(&mut st, at) {
                return Err(match stop {
                    Stop::NeedsWidening => (None, self.explored),
                    Stop::Rule(rule) => (Some(Box::new(self.error(&st, at, rule))), self.explored),
                });
            }
        }
        self.finish()
    }

    /// Follows one path to its end.
    fn walk(&mut self, st: &mut State, mut at: usize) -> Result<(), (usize, Stop)> {
        loop {
            #[cfg(test)]
            let joins = self.mode != Mode::Everything;
            #[cfg(not(test))]
            let joins = true;
            if joins && self.code.join[at] && self.arrive(st, at).map_err(|s| (at, s))? {
                break;
            }
            self.explored += 1;
            if self.explored > self.budget || self.states() > MAX_STATES {
                return Err((
                    at,
                    match self.mode {
                        Mode::Walk | Mode::Forget { .. } => Stop::NeedsWidening,
                        Mode::Widen => Rule::TooComplex { explored: self.explored }.into(),
                        #[cfg(test)]
                        Mode::Everything => Stop::NeedsWidening,
                    },
                ));
            }
            self.found.reached[at] = true;
            if let Some(t) = self.trace.as_deref_mut() {
                t.visit(at, &st.top().regs);
            }
            st.insns += 1;
            match self.step(st, at).map_err(|s| (at, s))? {
                Flow::Next(next) => at = next,
                Flow::End => break,
            }
        }
        self.close(st.parent);
        Ok(())
    }

    /// Leaves a second path for later.
    pub(super) fn fork(&mut self, st: State, at: usize) {
        if st.parent != NONE {
            self.checkpoints[st.parent as usize].open += 1;
        }
        self.work.push((st, at));
        self.note_peak();
    }

    pub(super) fn fresh_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    fn states(&self) -> u64 {
        self.live_states + self.work.len() as u64
    }

    fn note_peak(&mut self) {
        self.peak_states = self.peak_states.max(self.states());
    }

    /// A path through this checkpoint ended.
    fn close(&mut self, mut cp: u32) {
        while cp != NONE {
            let c = &mut self.checkpoints[cp as usize];
            c.open -= 1;
            if c.open > 0 {
                return;
            }
            let (at, parent) = (c.at as usize, c.state.as_ref().map_or(NONE, |s| s.parent));
            if self.mode == Mode::Walk {
                self.known[at].push(cp);
            }
            cp = parent;
        }
    }

    /// A path comes to a join: `true` if it ends here.
    fn arrive(&mut self, st: &mut State, at: usize) -> Result<bool, Stop> {
        if matches!(self.mode, Mode::Forget { .. }) {
            self.forget(st, at);
        }
        if self.cut_off(st, at) {
            return Ok(true);
        }
        let head = self.code.head[at];
        match self.mode {
            Mode::Walk => {
                if !(st.insns >= 8 && st.jumps >= 2 || st.insns >= 32) {
                    return Ok(false);
                }
                if head {
                    self.check_progress(st, at)?;
                }
            }
            Mode::Forget { .. } | Mode::Widen => {
                if head && self.widen(st, at) && self.cut_off(st, at) {
                    return Ok(true);
                }
            }
            #[cfg(test)]
            Mode::Everything => {}
        }
        self.keep(st, at);
        Ok(false)
    }

    /// Forgets what is not needed from here on.
    fn forget(&self, st: &mut State, at: usize) {
        let (live, need) = (self.code.live[at], &self.needs[at]);
        let top = st.top_mut();
        for (r, reg) in top.regs[..10].iter_mut().enumerate() {
            if live >> r & 1 == 0 {
                *reg = Reg::UNINIT;
            } else if reg.kind == Kind::Scalar && need.numbers >> r & 1 == 0 {
                reg.forget_number(Scalar::UNKNOWN);
            }
        }
        top.stack.keep_only(need.live);
        for s in &mut top.stack.spills {
            if s.reg.kind == Kind::Scalar && need.stack_numbers >> (s.at / 8) & 1 == 0 {
                s.reg.forget_number(Scalar::of_size(u32::from(s.size)));
            }
        }
    }

    /// Whether a known checkpoint covers this state.
    fn cut_off(&mut self, st: &mut State, at: usize) -> bool {
        let mut list = std::mem::take(&mut self.known[at]);
        let mut hit = None;
        let mut i = list.len();
        let last = i.saturating_sub(MAX_LOOK);
        while i > last {
            i -= 1;
            let cp = list[i] as usize;
            if self.covers(cp, st, at) {
                self.checkpoints[cp].hits += 1;
                hit = Some(cp);
                break;
            }
            let c = &mut self.checkpoints[cp];
            c.misses += 1;
            if self.mode == Mode::Walk && c.misses > 3 * c.hits + 8 {
                c.state = None;
                self.live_states -= 1;
                list.remove(i);
            }
        }
        self.known[at] = list;
        let Some(cp) = hit else { return false };
        if self.mode.widens() {
            self.note_way(st, cp as u32);
        } else {
            self.inherit(cp, st);
        }
        true
    }

    fn covers(&mut self, cp: usize, st: &State, at: usize) -> bool {
        let c = &self.checkpoints[cp];
        let Some(old) = c.state.as_deref() else { return false };
        let all = self.mode.widens();
        let (precise, read) =
            if all { (u128::MAX, [u64::MAX; MAX_FRAMES]) } else { (c.precise, c.read) };
        states_fit(self.code, old, st, at, precise, &read, Fit::Within, &mut self.ids)
    }

    /// The path is covered: what the checkpoint relies on, this path relies on too.
    fn inherit(&mut self, cp: usize, st: &State) {
        let (precise, read) = (self.checkpoints[cp].precise, self.checkpoints[cp].read);
        let mut deps = 0;
        if precise != 0
            && let Some(old) = self.checkpoints[cp].state.as_deref()
        {
            let mut n = 0;
            for (f, frame) in old.frames.iter().enumerate() {
                let new = &st.frames[f];
                for (r, reg) in frame.regs[..10].iter().enumerate() {
                    if reg.kind == Kind::Scalar {
                        if precise >> n.min(LAST_DEP) & 1 == 1 {
                            deps |= new.regs[r].deps;
                        }
                        n += 1;
                    }
                }
                for s in &frame.stack.spills {
                    if s.reg.kind == Kind::Scalar {
                        if precise >> n.min(LAST_DEP) & 1 == 1
                            && let Some(p) = new.stack.spill_at(s.at, s.size)
                        {
                            deps |= p.reg.deps;
                        }
                        n += 1;
                    }
                }
            }
        }
        self.rely_on(st.parent, deps);
        for (frame, slots) in read.into_iter().enumerate() {
            if slots != 0 {
                self.note_read(st, frame, slots);
            }
        }
    }

    fn note_way(&mut self, st: &mut State, to: u32) {
        let mut moves = Vec::new();
        st.places_mut(|place, r| {
            if let Some(o) = r.origin
                && o.place == place
            {
                moves.push(Move { place, least: o.least, most: o.most, word: o.word });
            }
        });
        self.ways.push(Way { from: st.parent, to, moves });
    }

    /// A path that comes round a loop exactly as it was would go round for ever.
    fn check_progress(&mut self, st: &State, at: usize) -> Result<(), Stop> {
        let mut cp = st.parent;
        for _ in 0..16 {
            if cp == NONE {
                break;
            }
            let c = &self.checkpoints[cp as usize];
            let Some(old) = c.state.as_deref() else { break };
            if c.at as usize == at {
                let all = [u64::MAX; MAX_FRAMES];
                if states_fit(self.code, old, st, at, u128::MAX, &all, Fit::Exact, &mut self.ids) {
                    return Err(Rule::InfiniteLoop.into());
                }
                break;
            }
            cp = old.parent;
        }
        Ok(())
    }

    /// Widens against the last time this path was here, from its third round on. Rounds in
    /// which a flag was different are other loops, up to a point.
    fn widen(&mut self, st: &mut State, at: usize) -> bool {
        const ROUNDS: usize = 2;
        const FLAG_ROUNDS: usize = 64;
        // After this many further rounds, each of which doubles the number of the program's
        // constants that the next widening passes over, it passes over all there may be.
        let leaps = if self.mode == (Mode::Forget { ends: false }) { 8 } else { 0 };
        let live = self.code.live[at];
        let (mut cp, mut last, mut rounds, mut like) = (st.parent, None, 0, None);
        let mut alike = 0;
        for _ in 0..MAX_LOOK {
            if cp == NONE {
                break;
            }
            let c = &self.checkpoints[cp as usize];
            let Some(old) = c.state.as_deref() else { break };
            if c.at as usize == at && same_place(old, st) {
                last = last.or(Some(cp));
                rounds += 1;
                if widen::flags_agree(old, st, live) {
                    like = like.or(Some(cp));
                    alike += 1;
                }
                if alike >= ROUNDS + leaps || rounds >= FLAG_ROUNDS {
                    break;
                }
            }
            cp = old.parent;
        }
        let with = if alike >= ROUNDS {
            like
        } else if rounds >= FLAG_ROUNDS {
            last
        } else {
            None
        };
        let Some(old) = with.and_then(|cp| self.checkpoints[cp as usize].state.as_deref()) else {
            return false;
        };
        let leap = alike.saturating_sub(ROUNDS).min(leaps);
        widen::widen(old, st, live, &self.thresholds, leap, &mut self.next_id);
        true
    }

    /// Keeps the state and starts counting dependencies from it.
    fn keep(&mut self, st: &mut State, at: usize) {
        let cp = self.checkpoints.len() as u32;
        self.checkpoints.push(Checkpoint {
            state: Some(Box::new(st.clone())),
            at: at as u32,
            precise: 0,
            read: [0; MAX_FRAMES],
            open: 1,
            hits: 0,
            misses: 0,
        });
        if self.mode.widens() {
            self.known[at].push(cp);
            self.note_way(st, cp);
            st.places_mut(|place, r| {
                let counts = matches!(r.kind, Kind::Scalar | Kind::Packet);
                r.origin = counts.then_some(Origin { place, least: 0, most: 0, word: false });
            });
        }
        self.live_states += 1;
        self.note_peak();
        st.parent = cp;
        st.sums.clear();
        st.insns = 0;
        st.jumps = 0;
        st.written = [0; MAX_FRAMES];
        let mut n = 0;
        st.for_each_mut(|r| {
            if r.kind == Kind::Scalar {
                r.deps = 1 << n.min(LAST_DEP);
                n += 1;
            }
        });
    }

    /// A proof relies on this number.
    pub(super) fn rely(&mut self, st: &State, reg: &Reg) {
        if reg.kind == Kind::Scalar {
            self.rely_on(st.parent, reg.deps);
        }
    }

    fn rely_on(&mut self, mut cp: u32, mut deps: u128) {
        if self.mode.widens() {
            return;
        }
        while cp != NONE && deps != 0 {
            let c = &mut self.checkpoints[cp as usize];
            let new = deps & !c.precise;
            if new == 0 {
                return;
            }
            c.precise |= new;
            let Some(state) = c.state.as_deref() else { return };
            deps = 0;
            let mut n = 0;
            let mut take = |r: &Reg| {
                if r.kind == Kind::Scalar {
                    if new >> n.min(LAST_DEP) & 1 == 1 {
                        deps |= r.deps;
                    }
                    n += 1;
                }
            };
            for frame in &state.frames {
                frame.regs[..10].iter().for_each(&mut take);
                frame.stack.spills.iter().for_each(|s| take(&s.reg));
            }
            cp = state.parent;
        }
    }

    /// Slots of a frame were read.
    pub(super) fn note_read(&mut self, st: &State, frame: usize, slots: u64) {
        if self.mode.widens() {
            return;
        }
        let mut slots = slots & !st.written[frame];
        let mut cp = st.parent;
        while cp != NONE && slots != 0 {
            let c = &mut self.checkpoints[cp as usize];
            let new = slots & !c.read[frame];
            if new == 0 {
                return;
            }
            c.read[frame] |= new;
            let Some(state) = c.state.as_deref() else { return };
            slots = new & !state.written[frame];
            cp = state.parent;
        }
    }

    pub(super) fn note_region(&mut self, at: usize, region: Region) -> Result<(), Rule> {
        let slot = &mut self.found.region[at];
        let joined = match (*slot, region) {
            (None, r) => r,
            (Some(a), b) if a == b => a,
            (Some(Region::Ctx { .. }), _) | (_, Region::Ctx { .. }) => {
                return Err(Rule::ContextMixed);
            }
            (Some(Region::Stack { .. }), Region::Stack { .. }) => Region::Stack { offset: None },
            _ => Region::Mixed,
        };
        *slot = Some(joined);
        Ok(())
    }

    pub(super) fn note_stack_use(&mut self, st: &State, frame: usize, lowest: i64) {
        let func = st.frames[frame].func as usize;
        let depth = (-lowest).clamp(0, STACK_SIZE) as u16;
        let slot = &mut self.found.frames[func];
        *slot = (*slot).max(depth.next_multiple_of(8));
    }

    fn error(&self, st: &State, at: usize, rule: Rule) -> VerifyError {
        let mut e = VerifyError::new(self.program, at, rule);
        let used: u16 = match self.code.ins[at] {
            Ins::Call { helper } => {
                let n = crate::bpf::helpers::proto_of(helper).map_or(0, |p| p.args.len());
                ((1 << n) - 1) << 1
            }
            _ => super::structure::registers_read(&self.code.ins[at]),
        };
        for r in 0..10u8 {
            if used >> r & 1 == 1 {
                e.registers.push((r, st.reg(r).to_string()));
            }
        }
        e
    }

    /// Whether widened loops were shown to end soon enough.
    fn ends(&self) -> bool {
        let nodes: Vec<Option<Node<'_>>> = self
            .checkpoints
            .iter()
            .map(|c| c.state.as_deref().map(|state| Node { at: c.at as usize, state }))
            .collect();
        ends::most_ways(self.code, &nodes, &self.ways).is_some_and(|n| n <= self.fuel)
    }

    fn finish(self) -> Result<Facts, (Option<Box<VerifyError>>, u64)> {
        let n = self.code.ins.len();
        let fuel = match self.mode {
            Mode::Walk => Fuel::NotNeeded,
            #[cfg(test)]
            Mode::Everything => Fuel::NotNeeded,
            _ if self.ends() => Fuel::NotNeeded,
            _ => Fuel::Metered {
                back_edges: (0..n)
                    .filter(|&at| self.found.reached[at] && self.code.back_edge(at))
                    .collect(),
            },
        };
        let (stack_depth, at) = self.stack_depth();
        if i64::from(stack_depth) > STACK_SIZE {
            let rule = Rule::StackDepth { bytes: stack_depth };
            let error = VerifyError::new(self.program, at, rule);
            return Err((Some(Box::new(error)), self.explored));
        }
        Ok(Facts {
            reached: self.found.reached,
            region: self.found.region,
            taken: self.found.taken,
            calls: self.found.calls,
            frames: self.found.frames,
            stack_depth: stack_depth as u16,
            fuel,
            budget: self.fuel,
            explored: self.explored,
            peak_states: self.peak_states,
        })
    }

    /// The deepest chain of frames from the main function, and the first call of it.
    fn stack_depth(&self) -> (u32, usize) {
        // Calls are acyclic, so as many rounds as there are functions settle it.
        let n = self.found.frames.len();
        let mut depth: Vec<u32> = self.found.frames.iter().map(|&d| u32::from(d)).collect();
        let mut via = vec![0usize; n];
        for _ in 0..n {
            let mut changed = false;
            for &(at, from, to) in &self.code.calls {
                if self.found.reached[at] {
                    let d = u32::from(self.found.frames[from as usize]) + depth[to as usize];
                    if d > depth[from as usize] {
                        depth[from as usize] = d;
                        via[from as usize] = at;
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        (depth[0], via[0])
    }
}

fn same_place(old: &State, new: &State) -> bool {
    old.frames.len() == new.frames.len()
        && old
            .frames
            .iter()
            .zip(&new.frames)
            .all(|(o, n)| o.func == n.func && o.callsite == n.callsite)
}

/// Registers of a frame that are read later, at a state of the instruction `at`.
pub(super) fn live_in_frame(code: &Code, st: &State, frame: usize, at: usize) -> u16 {
    match st.frames.get(frame + 1) {
        None => code.live[at],
        // What the caller reads after the call (or, for a callback, at the call again).
        Some(called) if called.callback => code.live[called.callsite as usize],
        Some(called) => code.live.get(called.callsite as usize + 1).copied().unwrap_or(0),
    }
}

#[expect(clippy::too_many_arguments)]
fn states_fit(
    code: &Code,
    old: &State,
    new: &State,
    at: usize,
    precise: u128,
    read: &[u64; MAX_FRAMES],
    fit: Fit,
    ids: &mut IdMap,
) -> bool {
    if !same_place(old, new) || old.held.len() != new.held.len() {
        return false;
    }
    ids.clear();
    let mut n = 0usize;
    for (f, (o, w)) in old.frames.iter().zip(&new.frames).enumerate() {
        let live = live_in_frame(code, old, f, at);
        for (r, (a, b)) in o.regs[..10].iter().zip(&w.regs[..10]).enumerate() {
            let mut wanted = true;
            if a.kind == Kind::Scalar {
                wanted = precise >> n.min(LAST_DEP) & 1 == 1;
                n += 1;
            }
            if live >> r & 1 == 1 && !reg_fits(a, b, wanted, fit, ids) {
                return false;
            }
        }
        let base = n;
        // Which number of the state a spill is.
        let index = |i: usize| {
            base + o.stack.spills[..i].iter().filter(|s| s.reg.kind == Kind::Scalar).count()
        };
        let wanted = |i: usize| precise >> index(i).min(LAST_DEP) & 1 == 1;
        if !stack_fits(&o.stack, &w.stack, read[f], fit, ids, wanted) {
            return false;
        }
        n += o.stack.spills.iter().filter(|s| s.reg.kind == Kind::Scalar).count();
    }
    old.held.iter().zip(&new.held).all(|(o, w)| ids.check(o.id, w.id))
}
