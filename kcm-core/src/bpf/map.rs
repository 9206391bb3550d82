//! Maps: what a program keeps between calls.

/// What a map is, as the object file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDef {
    /// The name in the object file (`.rodata` and friends for data sections).
    pub name: String,
    /// The kernel's number of the map type (BPF_MAP_TYPE_*).
    pub kind: u32,
    /// Bytes per key.
    pub key_size: u32,
    /// Bytes per value.
    pub value_size: u32,
    /// Entries (ring buffers: bytes).
    pub max_entries: u32,
    /// The kernel's map flags (BPF_F_RDONLY_PROG = 1 << 7 marks frozen data).
    pub flags: u32,
    /// First contents of a data section's single value.
    pub initial: Option<Vec<u8>>,
}
