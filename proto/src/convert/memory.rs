//! What an app has of a host's memory.

use ship_model::report::AppMemory;

use crate::v1;

impl From<AppMemory> for v1::AppMemory {
    fn from(memory: AppMemory) -> Self {
        Self {
            used: memory.used.into_iter().collect(),
            free: memory.free,
            whose: memory.whose,
        }
    }
}

impl From<v1::AppMemory> for AppMemory {
    fn from(wire: v1::AppMemory) -> Self {
        Self {
            used: wire.used.into_iter().collect(),
            free: wire.free,
            whose: wire.whose,
        }
    }
}
