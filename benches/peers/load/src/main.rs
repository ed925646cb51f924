//! The load, the sink and the report of the comparison with other front proxies.
//!
//! * `sink ADDRESS`: the fastest backend there is, see [`sink`].
//! * `copy ADDRESS TO`: a front that copies octets, see [`copy`].
//! * `load KIND …`: clients, see [`load`].
//! * `counts ADDRESS`: what the sink at `ADDRESS` has seen since it was last asked.
//! * `report FILE`: the table, from one line per measurement, see [`report`].
//!
//! All of it is one thread: on a small machine the front under test should have the other cores.

mod arguments;
mod connection;
mod copy;
mod figure;
mod goals;
mod load;
mod report;
mod sink;
mod tls;

use std::process::ExitCode;

use arguments::Command;

fn main() -> ExitCode {
    let outcome = match arguments::read(std::env::args().skip(1)) {
        Ok(command) => perform(command),
        Err(fault) => Err(format!("{fault}\n{}", arguments::USAGE)),
    };
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("backstop-peers: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> Result<String, String> {
    if let Command::Report(file) = command {
        let lines = std::fs::read_to_string(&file).map_err(|fault| format!("{file}: {fault}"))?;
        return report::table(&lines);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|fault| fault.to_string())?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Sink(address) => sink::serve(address).await.map(|()| String::new()),
            Command::Copy(address, to) => copy::serve(address, to).await.map(|()| String::new()),
            Command::Counts(address) => connection::counts(address).await,
            Command::Load(order) => load::run(order).await.map(|done| done.to_string()),
            Command::Report(_) => Ok(String::new()),
        }
    });
    outcome.map_err(|fault| fault.to_string())
}
