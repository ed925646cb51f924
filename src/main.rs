//! The `backstop` command: everything it does is in the library.

use std::process::ExitCode;

#[cfg(all(feature = "jemalloc", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    backstop::cli::main()
}
