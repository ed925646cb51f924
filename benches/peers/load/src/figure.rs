//! One measurement, and the figures taken from it.

/// What one measurement says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    pub(crate) units: f64,
    pub(crate) seconds: f64,
    /// Microseconds a session took.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Seconds of CPU.
    pub(crate) cpu: f64,
    /// Most that were open to the backend at once.
    pub(crate) connections: f64,
    pub(crate) kib: f64,
}

impl Measured {
    /// Reads `ROW FRONT FIGURES…`.
    pub(crate) fn read(text: &str) -> Option<(String, String, Self)> {
        let mut words = text.split(' ');
        let (row, front) = (words.next()?, words.next()?);
        let figures: Vec<f64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let [units, seconds, p50, p99, cpu, connections, kib] = figures.try_into().ok()?;
        Some((row.to_owned(), front.to_owned(), Self { units, seconds, p50, p99, cpu, connections, kib }))
    }
}

/// One of the figures of a measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Figure {
    Rate,
    CpuPerUnit,
    P50,
    P99,
    Connections,
    KibPerUnit,
}

impl Figure {
    pub(crate) fn of(self, measured: &Measured) -> f64 {
        match self {
            Self::Rate => measured.units / measured.seconds,
            Self::CpuPerUnit => measured.cpu / measured.units,
            Self::P50 => measured.p50,
            Self::P99 => measured.p99,
            Self::Connections => measured.connections,
            Self::KibPerUnit => measured.kib / measured.units,
        }
    }

    /// One value for all rounds. Memory that a process got once it reuses in later rounds.
    pub(crate) fn summary(self, values: Vec<f64>) -> Option<f64> {
        match self {
            Self::KibPerUnit => values.into_iter().reduce(f64::max),
            _ => median(values),
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rate => "per second",
            Self::CpuPerUnit => "CPU",
            Self::P50 => "median",
            Self::P99 => "99th percentile",
            Self::Connections => "backend connections",
            Self::KibPerUnit => "KiB each",
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*lower, *upper))
}
