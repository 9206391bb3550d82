//! What an object may have at most. Loading costs time and memory in proportion to these, so
//! that a hostile file costs no more than a large honest one.

/// Bytes of an object file.
pub const OBJECT_BYTES: usize = 16 << 20;

/// Instruction slots of a linked program, called functions included. The kernel takes a
/// million, but of parsers only those with a few thousand were ever seen.
pub const PROGRAM_INSNS: usize = 1 << 16;

/// Functions in an object.
pub const FUNCTIONS: usize = 1 << 14;

/// Sections in an object.
pub const SECTIONS: usize = 1 << 14;

/// Maps in an object, data sections included.
pub const MAPS: usize = 1 << 10;

/// Maps a program may use, data sections included; the kernel's number.
pub const PROGRAM_MAPS: usize = 64;

/// Bytes of a data section, `.bss` included.
pub const DATA_BYTES: usize = 16 << 20;

/// Bytes of a symbol's or section's name.
pub const NAME_BYTES: usize = 4096;

/// Bytes of the license; the kernel's number.
pub const LICENSE_BYTES: usize = 127;

/// Bytes of a source line's text that are kept.
pub(super) const LINE_TEXT: usize = 512;

/// Bytes of source line texts and file names kept for one program.
pub(super) const LINES_BYTES: usize = 4 << 20;

/// Names that an error message lists.
pub(super) const NAMES_SHOWN: usize = 32;
