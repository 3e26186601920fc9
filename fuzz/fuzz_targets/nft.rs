#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rscni_linux::fuzzing::nft(data));
