//! How it answers publishers, and who looks at releases.

use ship_model::digest::BundleDigest;
use ship_model::manifest::Manifest;
use ship_proto::v1::releases_server::Releases;
use tonic::Streaming;

use super::*;

#[tonic::async_trait]
impl Releases for Face {
    type BeginStream = Items<MissingBlobs>;

    async fn begin(&self, request: Request<Streaming<BeginChunk>>) -> Answer<Self::BeginStream> {
        let mut chunks = request.into_inner();
        let mut manifest = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            manifest.extend_from_slice(&chunk.manifest);
        }
        let read =
            Manifest::decode(&manifest).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut script = self.script();
        lose(&mut script.lost_begins)?;
        let mut blobs: Vec<Vec<u8>> = read.files().map(|file| file.3.as_bytes().to_vec()).collect();
        blobs.sort();
        blobs.dedup();
        let kept = script
            .published
            .as_ref()
            .is_some_and(|kept| !kept.bundle.is_empty());
        if script.knows_everything || kept {
            blobs.clear();
        }
        script.published.get_or_insert_default().manifest = manifest;
        Ok(Response::new(items(
            blobs
                .chunks(2)
                .map(|some| Ok(MissingBlobs { blobs: some.to_vec() }))
                .collect(),
        )))
    }

    type MissingStream = Items<MissingBlobs>;

    async fn missing(&self, request: Request<Streaming<MissingRequest>>) -> Answer<Self::MissingStream> {
        let mut questions = request.into_inner();
        let mut answers = Vec::new();
        let knows = self.script().knows_segments;
        if knows == Some(false) {
            return Err(Status::invalid_argument("this store has no call Missing"));
        }
        while let Some(question) = questions.message().await? {
            // It has every second segment.
            let blobs = question
                .blobs
                .into_iter()
                .filter(|blob| knows.is_none() || blob[0] % 2 == 0);
            answers.push(Ok(MissingBlobs {
                blobs: blobs.collect(),
            }));
        }
        Ok(Response::new(items(answers)))
    }

    async fn upload(&self, request: Request<Streaming<UploadChunk>>) -> Answer<Uploaded> {
        let mut chunks = request.into_inner();
        let (mut bundle, mut announced) = (Vec::new(), None);
        while let Some(chunk) = chunks.message().await? {
            announced = announced.or(chunk.bundle);
            bundle.extend_from_slice(&chunk.data);
        }
        let stored_bytes = bundle.len() as u64;
        let digest = BundleDigest::of(&bundle).as_bytes().to_vec();
        if announced.as_ref() != Some(&digest) {
            return Err(Status::invalid_argument(
                "the bundle was not announced by its digest",
            ));
        }
        let mut script = self.script();
        script.uploads += 1;
        lose(&mut script.lost_uploads)?;
        script.published.get_or_insert_default().bundle = bundle;
        lose(&mut script.unanswered_uploads)?;
        Ok(Response::new(Uploaded {
            bundle: digest,
            stored_bytes,
        }))
    }

    async fn upload_delta(&self, request: Request<Streaming<UploadDeltaChunk>>) -> Answer<Uploaded> {
        let mut chunks = request.into_inner();
        let (mut offer, mut delta) = (None, Vec::new());
        let takes = self.script().takes_deltas.clone();
        let Some(answer) = takes else {
            return Err(Status::invalid_argument("this store has no call \"UploadDelta\""));
        };
        while let Some(chunk) = chunks.message().await? {
            offer = offer.or(chunk.offer);
            delta.extend_from_slice(&chunk.data);
        }
        let mut script = self.script();
        script.deltas.push((offer.unwrap(), delta));
        lose(&mut script.lost_deltas)?;
        answer?;
        let bundle = b"made here".to_vec();
        let digest = BundleDigest::of(&bundle).as_bytes().to_vec();
        script.published.get_or_insert_default().bundle = bundle;
        Ok(Response::new(Uploaded {
            bundle: digest,
            stored_bytes: 9,
        }))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Answer<ReleaseRecord> {
        let request = request.into_inner();
        let mut script = self.script();
        script.commits.push(request.clone());
        lose(&mut script.lost_commits)?;
        Ok(Response::new(ReleaseRecord {
            app: request.app,
            release: Some(Target {
                number: 4,
                id: request.id,
            }),
            label: request.label,
            bundle: request.bundle,
            files: 2,
            bytes: 10,
            new_bytes: 10,
            stored_bytes: 300,
            ..ReleaseRecord::default()
        }))
    }

    async fn list(&self, _: Request<ListReleasesRequest>) -> Answer<ListReleasesReply> {
        Ok(Response::new(ListReleasesReply {
            releases: self.script().releases.clone(),
        }))
    }

    async fn get(&self, request: Request<GetReleaseRequest>) -> Answer<ReleaseRecord> {
        let app = request.into_inner().app;
        let script = self.script();
        if let (Some(published), Some(_)) = (&script.published, &script.located) {
            return Ok(Response::new(ReleaseRecord {
                app,
                release: Some(Target {
                    number: 4,
                    id: Manifest::id_of(&published.manifest).as_bytes().to_vec(),
                }),
                ..ReleaseRecord::default()
            }));
        }
        let subject = format!("{app}@9");
        Err(ship_proto::refuse(
            FailureKind::NotFound,
            format!("there is no release {subject}"),
            &subject,
            "shipctl releases web",
        ))
    }

    async fn deltas(&self, _: Request<DeltasRequest>) -> Answer<DeltasReply> {
        Ok(Response::new(DeltasReply::default()))
    }

    async fn pin(&self, _: Request<PinRequest>) -> Answer<ReleaseRecord> {
        Err(Status::unimplemented("nobody pins here"))
    }

    type CollectStream = Items<CollectLine>;

    async fn collect(&self, request: Request<CollectRequest>) -> Answer<Self::CollectStream> {
        let asked = request.into_inner();
        let line = |kind: &str, name: &str, fate: &str| CollectLine {
            kind: kind.into(),
            name: name.into(),
            bytes: 2048,
            fate: fate.into(),
            ..CollectLine::default()
        };
        let kept = CollectLine {
            reasons: vec![CollectReason {
                kind: "newest".into(),
                words: "among the newest 20".into(),
                until_ms: 0,
            }],
            ..line("release", "web@3", "kept")
        };
        let fate = if asked.dry_run { "unmarked" } else { "gone" };
        let lines = [
            kept,
            line("release", "web@1", fate),
            line("bundle", &"3f".repeat(32), fate),
        ];
        Ok(Response::new(items(lines.into_iter().map(Ok).collect())))
    }

    async fn leaves(&self, _: Request<LeavesRequest>) -> Answer<LeavesReply> {
        Err(Status::unimplemented("terminals check whole bundles"))
    }

    type ManifestStream = Items<Piece>;

    async fn manifest(&self, _: Request<ManifestRequest>) -> Answer<Self::ManifestStream> {
        let published = self.script().published.clone().unwrap_or_default();
        let data = published.manifest.into();
        Ok(Response::new(items(vec![Ok(Piece { data })])))
    }

    type LocateStream = Items<Located>;

    async fn locate(&self, _: Request<Streaming<LocateRequest>>) -> Answer<Self::LocateStream> {
        let located = self.script().located.clone().unwrap_or_default();
        Ok(Response::new(items(located.into_iter().map(Ok).collect())))
    }
}
