//! The parse functions, run natively over the parser tables.

use kcm_core::delineate::{Delineate, Verdict};
use kcm_ebpf::parsers::{self, ParseFn};
use kcm_tests::parser_table;

struct Native(ParseFn);

impl Delineate for Native {
    fn parse(&self, msg: &[u8]) -> Verdict {
        kcm_ebpf::parse_bytes(self.0, msg)
    }
}

#[test]
fn every_parse_function_answers_as_its_table_says() {
    let tables = parser_table::all().unwrap();
    let mut faults = Vec::new();
    for table in &tables {
        let found = parsers::ALL.iter().find(|p| p.0 == table.object && p.1 == table.program);
        let Some((_, _, parse)) = found else {
            panic!("a table for {}, which no parser is named", table.program);
        };
        faults.extend(table.check(&Native(*parse)).err().map(|e| e.to_string()));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_parser_has_a_table_of_fifteen_cases() {
    let tables = parser_table::all().unwrap();
    for (object, program, _) in parsers::ALL {
        let Some(table) = tables.iter().find(|t| t.program == *program) else {
            panic!("no table for {program} of {object}.o");
        };
        assert!(table.cases.len() >= 15, "{program}: only {} cases", table.cases.len());
    }
}
