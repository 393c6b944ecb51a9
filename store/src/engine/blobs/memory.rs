//! Objects in memory, for tests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::MemfdFlags;

use super::{Blobs, BlobsError, Object, ObjectKind, ObjectReader, Staged};

/// An engine that ends with the process.
#[derive(Debug, Default)]
pub struct MemoryBlobs {
    objects: Mutex<BTreeMap<Object, Arc<[u8]>>>,
}

impl MemoryBlobs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Object, Arc<[u8]>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct MemoryReader(Arc<[u8]>);

impl ObjectReader for MemoryReader {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..));
        let rest = rest.unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

impl Blobs for MemoryBlobs {
    fn room(&self) -> Result<(), BlobsError> {
        Ok(())
    }

    fn stage(&self) -> Result<Staged, BlobsError> {
        let fd = rustix::fs::memfd_create("ship-staged", MemfdFlags::CLOEXEC);
        let fd = fd.map_err(|error| BlobsError::Io {
            action: "stage an object in memory".to_owned(),
            source: error.into(),
        })?;
        Ok(Staged::new(File::from(fd), None))
    }

    fn keep(&self, staged: Staged, object: Object) -> Result<(), BlobsError> {
        staged.must_be(object)?;
        let mut bytes = vec![0; usize::try_from(staged.len()).unwrap_or(usize::MAX)];
        staged
            .file()
            .read_exact_at(&mut bytes, 0)
            .map_err(|source| BlobsError::Io {
                action: format!("keep {object}"),
                source,
            })?;
        self.lock().insert(object, bytes.into());
        Ok(())
    }

    fn open(&self, object: Object) -> Result<Box<dyn ObjectReader>, BlobsError> {
        match self.lock().get(&object) {
            Some(bytes) => Ok(Box::new(MemoryReader(bytes.clone()))),
            None => Err(BlobsError::Absent { object }),
        }
    }

    fn len(&self, object: Object) -> Result<Option<u64>, BlobsError> {
        Ok(self.lock().get(&object).map(|bytes| bytes.len() as u64))
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(Object, u64)>, BlobsError> {
        let objects = self.lock();
        let of_kind = objects.iter().filter(|(object, _)| object.kind() == kind);
        Ok(of_kind
            .map(|(object, bytes)| (*object, bytes.len() as u64))
            .collect())
    }

    fn quarantine(&self, object: Object) -> Result<(), BlobsError> {
        self.remove(object)
    }

    /// Nothing: what is put aside here is gone.
    fn quarantined(&self) -> Result<Vec<Object>, BlobsError> {
        Ok(Vec::new())
    }

    fn remove(&self, object: Object) -> Result<(), BlobsError> {
        self.lock().remove(&object);
        Ok(())
    }
}
