//! The program.

/// Events are made in one thread and freed in another, which the allocator of the system does slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tidegate::cli::main().into()
}
