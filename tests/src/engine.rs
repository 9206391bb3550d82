//! The same tests on two engines: which one a test runs on, and which tests the kernel engine
//! is excused from, with the reason.

use std::sync::OnceLock;

use kcm_core::{AttachOptions, Engine, Psock};

use crate::skip;

/// Set to `kernel` (or `process`) to say which engine tests run on. Without it: the kernel's in
/// the test program `on_kernel_engine`, which holds the same tests again, the process's elsewhere.
pub const ENGINE: &str = "KCM_TEST_ENGINE";

/// Tests that cannot hold on the kernel engine, and why. `file::test`.
pub const EXCUSED: &[(&str, &str)] = &[
    ("attach::any_stream_can_be_attached_and_comes_back_with_its_type", TCP),
    ("attach::an_error_of_the_stream_itself_is_kept_as_it_is", TCP),
    ("attach::unix_streams_are_attached_as_they_are", TCP),
    ("receive::an_unfinished_message_times_out_and_an_idle_connection_does_not", TCP),
    ("attach::a_stream_comes_back_as_it_was", UNATTACH),
    ("attach::indices_are_the_lowest_free_and_ids_name_nothing_twice", UNATTACH),
    ("attach::attaching_and_unattaching_in_a_storm_leaves_each_connection_in_one_place", UNATTACH),
    ("attach::unattach_is_prompt_while_data_pours_in", UNATTACH),
    ("attach::unattach_returns_messages_that_nobody_had_room_for", UNATTACH),
    ("attach::unattach_returns_the_bytes_of_the_unfinished_message", UNATTACH),
    ("attach::a_connection_is_attached_once_through_any_descriptor_to_any_multiplexor", UNATTACH),
    ("failures::a_stream_can_be_handed_back_and_used", UNATTACH),
    ("races::row_47_detaching_as_a_partial_message_arms_the_clock", UNATTACH),
    (
        "attach::a_peer_that_ended_before_attach_is_noticed",
        "the kernel takes established connections only: attach refuses one whose peer has ended",
    ),
    (
        "failures::a_header_without_end_is_bounded",
        "its parser is a native function, which no kernel runs",
    ),
    (
        "receive::bytes_the_application_read_before_attach_come_first",
        "the kernel cannot be given bytes that were read before: attach refuses `initial`",
    ),
    ("failures::an_unfinished_message_ends_by_the_sockets_own_timeout", UNFINISHED),
    ("receive::a_burst_goes_to_one_socket", BATCH),
    (
        "receive::messages_taken_one_by_one_are_measured_and_peeked_at_as_if_each_had_its_own_batch",
        BATCH,
    ),
    ("receive::after_one_message_of_a_batch_every_other_way_to_receive_takes_the_next", BATCH),
    ("receive::what_is_left_of_a_batch_moves_when_its_socket_is_disabled_or_dropped", BATCH),
    ("receive::a_full_socket_takes_messages_again_at_its_low_water_also_inside_a_batch", BATCH),
    ("receive::everybody_who_waits_at_a_socket_gets_a_message_of_one_batch", BATCH),
    ("receive::a_full_socket_parks_the_connection_and_tcp_holds_the_rest", PRESSURE),
    ("failures::our_own_slowness_is_not_held_against_the_peer", PRESSURE),
];

const TCP: &str = "the kernel's parsers are for TCP sockets, and this is another stream";
const UNATTACH: &str =
    "a live socket cannot leave the kernel's parser: unattach shuts the connection down";
const PRESSURE: &str =
    "the kernel takes bytes and runs its clocks whoever reads or does not: no back-pressure";
const BATCH: &str =
    "what is in the ring when its reader looks is a batch: one write may come as several";
const UNFINISHED: &str =
    "what came of an unfinished message stays in the kernel: unattach has no unread bytes";

/// The engine that tests of this process attach with.
pub fn engine() -> Engine {
    static CHOSEN: OnceLock<Engine> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let said = std::env::var(ENGINE).unwrap_or_default();
        let here = std::env::current_exe().unwrap_or_default();
        let name = here.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        match said.as_str() {
            "kernel" => Engine::Kernel,
            "process" => Engine::Process,
            _ if name.starts_with("on_kernel_engine-") => Engine::Kernel,
            _ => Engine::Process,
        }
    })
}

/// Options of attach, with the engine that this process tests.
pub fn attach_options() -> AttachOptions {
    AttachOptions::new().engine(engine())
}

/// Whether the engine has taken the first `bytes` bytes of a connection, and no more. A kernel
/// takes them as they arrive, before a test can look, and tells of whole messages only.
pub fn has_taken(psock: &Psock, bytes: u64) -> bool {
    match engine() {
        Engine::Kernel => true,
        _ => psock.stats().is_some_and(|stats| stats.strp.bytes == bytes),
    }
}

/// What comes back with a stream whose unfinished message has these bytes: nothing from the
/// kernel, which keeps what it began.
pub fn unread_of(bytes: &[u8]) -> &[u8] {
    if engine() == Engine::Kernel { &[] } else { bytes }
}

/// Whether the test `file::test` is to run here. Where not, it is skipped out loud: the machine
/// has no kernel engine, or the test is excused from it.
pub fn runs(test: &str) -> bool {
    if engine() != Engine::Kernel {
        return true;
    }
    if let Some((_, why)) = excuse(test) {
        skip::skip_named(test, format_args!("not on the kernel engine: {why}"));
        return false;
    }
    if let Err(e) = available() {
        skip::skip_named(test, format_args!("no kernel engine: {e}"));
        return false;
    }
    true
}

/// What [`EXCUSED`] says of a test.
pub fn excuse(test: &str) -> Option<&'static (&'static str, &'static str)> {
    EXCUSED.iter().find(|(name, _)| *name == test)
}

/// Whether this machine and process can have the kernel engine; asked once.
///
/// # Errors
/// What is missing.
pub fn available() -> Result<(), &'static str> {
    static ASKED: OnceLock<Result<(), String>> = OnceLock::new();
    let asked =
        ASKED.get_or_init(|| kcm_core::kernel::probe().map(drop).map_err(|e| e.to_string()));
    asked.as_ref().copied().map_err(String::as_str)
}
