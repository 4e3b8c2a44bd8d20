//! From what was uploaded to what can be deployed: the manifest, what it is made of, and whether
//! any node could run it. All mistakes are told at once, before anything is promised.

use insula_blobs::{Entry, Kind as Blob, Manifest, ManifestError, Node, Shelf};
use insula_build::source::WANTED_LEN_MAX;
use insula_build::{Detected, Problems, SourceFile, SourceView, detect, runtime_hint};
use insula_model::build::BuildPlan;
use insula_model::node::{Capacity, RuntimeFound};
use insula_model::spec::{AppSpec, Runtime};
use insula_model::{Bytes, Digest, OrgId};
use insula_wire::problem::{Code, Mistake};
use serde_json::Value;

use crate::error::ApiError;
use crate::state::Api;

/// Of chunks that are lacking, so many are named; the question for all of them is another one.
const LACKING_TOLD_MAX: usize = 20;

/// A source that can be deployed, as far as can be known before it is tried.
#[derive(Debug, Clone)]
pub struct Checked {
    pub manifest: Digest,
    pub size: Bytes,
    pub spec: AppSpec,
    pub plan: BuildPlan,
    pub warnings: Vec<String>,
}

/// Checks a manifest whose chunks were uploaded before, and keeps it.
pub async fn check_manifest(api: &Api, org: OrgId, document: Value) -> Result<Checked, ApiError> {
    let manifest = read_manifest(document)?;
    lacks_nothing(api, org, &manifest).await?;
    check(api, org, &manifest).await
}

/// Checks a source that is all there, and keeps its manifest.
pub async fn check(api: &Api, org: OrgId, manifest: &Manifest) -> Result<Checked, ApiError> {
    let view = look(api, org, manifest).await?;
    let found = detect(&view).map_err(refuse_spec)?;
    can_run(api, &found).await?;
    let shelf = Shelf::new(org, Blob::Manifest);
    let stored = api.state.blobs.put_bytes(shelf, manifest.encode().into()).await?;
    let Detected { spec, plan, warnings, .. } = found;
    Ok(Checked { manifest: stored.digest, size: manifest.size(), spec, plan, warnings })
}

fn read_manifest(document: Value) -> Result<Manifest, ApiError> {
    let form = |said: &str| {
        ApiError::new(Code::InvalidManifest, format!("the manifest cannot be read: {said}"))
            .hint("send the document that `insula deploy` writes, or post an archive")
    };
    let Value::Object(mut document) = document else { return Err(form("it is not an object")) };
    match document.remove("schema") {
        Some(Value::Number(schema)) if schema.as_u64() == Some(1) => {}
        Some(_) | None => return Err(form("its `schema` is not 1")),
    }
    let given = document.remove("entries").unwrap_or(Value::Null);
    if !document.is_empty() {
        return Err(form("it has keys that are not known"));
    }
    let entries: Vec<Entry> = serde_json::from_value(given.clone())
        .map_err(|_| form("its entries are not of the form"))?;
    let manifest = Manifest::new(entries).map_err(refuse_manifest)?;
    // Whatever is not written down again was not understood.
    let again = serde_json::to_value(manifest.entries()).map_err(ApiError::internal)?;
    if again != given {
        return Err(form(
            "its entries are not in their one form: sorted by path, folders only where empty, no other keys",
        ));
    }
    Ok(manifest)
}

pub fn refuse_manifest(error: ManifestError) -> ApiError {
    let code = match &error {
        ManifestError::TooMany { .. }
        | ManifestError::TooLong { .. }
        | ManifestError::FileTooLarge { .. }
        | ManifestError::TooLarge => Code::SourceTooLarge,
        ManifestError::Form { .. }
        | ManifestError::Schema { .. }
        | ManifestError::NotCanonical
        | ManifestError::Path { .. }
        | ManifestError::Order { .. }
        | ManifestError::BelowNoFolder { .. }
        | ManifestError::NotEmpty { .. }
        | ManifestError::Link { .. }
        | ManifestError::Chunk { .. } => Code::InvalidManifest,
    };
    let refused = ApiError::new(code, error.to_string());
    match code {
        Code::SourceTooLarge => {
            refused.hint("leave data, packages and logs out: list them in .insulaignore")
        }
        _ => refused,
    }
}

async fn lacks_nothing(api: &Api, org: OrgId, manifest: &Manifest) -> Result<(), ApiError> {
    let chunks: Vec<Digest> = manifest.chunks().iter().map(|chunk| chunk.digest).collect();
    let there = api.state.blobs.has_many(Shelf::new(org, Blob::Chunk), &chunks).await?;
    let lacking: Vec<&Digest> =
        chunks.iter().zip(&there).filter(|(_, there)| !**there).map(|(digest, _)| digest).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let told = lacking.iter().take(LACKING_TOLD_MAX).map(|digest| Mistake {
        key: Some(digest.to_string()),
        message: "this chunk was not uploaded".into(),
        ..Mistake::default()
    });
    let count = lacking.len();
    Err(ApiError::new(Code::SourceIncomplete, format!("{count} chunks have not been uploaded"))
        .hint("ask sources/missing, upload what it names, and send this again")
        .mistakes(told.collect()))
}

/// The files that detection asks for; none of the others is read.
async fn look(api: &Api, org: OrgId, manifest: &Manifest) -> Result<SourceView, ApiError> {
    let files = manifest.entries().iter().filter_map(|entry| match &entry.node {
        Node::File { executable, .. } => {
            let size = entry.node.size().0;
            Some(SourceFile { path: entry.path.clone(), size, executable: *executable })
        }
        Node::Symlink { .. } => {
            Some(SourceFile { path: entry.path.clone(), size: 0, executable: false })
        }
        Node::Dir => None,
    });
    let mut view = SourceView::new(files);
    let wanted: Vec<String> = view.wanted().into_iter().map(str::to_owned).collect();
    for path in wanted {
        let at = manifest.entries().binary_search_by(|entry| entry.path.as_str().cmp(&path));
        let Some(entry) = at.ok().and_then(|at| manifest.entries().get(at)) else { continue };
        // What a link points at is not what its name says.
        let Node::File { chunks, .. } = &entry.node else { continue };
        let mut contents = Vec::new();
        for chunk in chunks {
            let shelf = Shelf::new(org, Blob::Chunk);
            let bytes = api.state.blobs.get_bytes(shelf, chunk.digest, WANTED_LEN_MAX).await?;
            contents.extend_from_slice(&bytes);
        }
        view.put(&path, contents);
    }
    Ok(view)
}

fn refuse_spec(problems: Problems) -> ApiError {
    let mistakes: Vec<Mistake> = problems
        .into_vec()
        .into_iter()
        .map(|problem| Mistake {
            file: problem.file,
            line: problem.line.and_then(|line| u32::try_from(line).ok()),
            key: problem.key,
            message: problem.message,
            fix: problem.fix,
        })
        .collect();
    let detail = match mistakes.as_slice() {
        [one] => one.message.clone(),
        more => format!("{} mistakes in the description of the app", more.len()),
    };
    ApiError::new(Code::InvalidSpec, detail).mistakes(mistakes)
}

/// Refuses what no node that we know of could run. Without a node it waits for one.
async fn can_run(api: &Api, found: &Detected) -> Result<(), ApiError> {
    let nodes = api
        .state
        .store
        .read(|tx| {
            let page = insula_store::Page::first(insula_model::limits::PAGE_MAX);
            Ok::<_, ApiError>(insula_store::nodes::list(tx, &page)?.items)
        })
        .await?;
    if nodes.is_empty() {
        return Ok(());
    }
    let runtimes: Vec<&RuntimeFound> = nodes.iter().flat_map(|node| &node.offer.runtimes).collect();
    has_runtimes(found, &runtimes)?;
    let capacities: Vec<Capacity> = nodes.iter().map(|node| node.offer.capacity).collect();
    has_room(&found.spec, &capacities)
}

fn has_runtimes(found: &Detected, there: &[&RuntimeFound]) -> Result<(), ApiError> {
    let components = found.spec.components.values().map(|component| component.runtime);
    let steps = found.plan.steps.iter().map(|step| step.runtime);
    let mut lacking: Vec<Runtime> = components
        .chain(steps)
        // Files and shells are on every node.
        .filter(|runtime| match runtime {
            Runtime::Python | Runtime::Node => true,
            Runtime::Files | Runtime::Host => false,
        })
        .filter(|runtime| !there.iter().any(|found| found.runtime == *runtime))
        .collect();
    lacking.sort();
    lacking.dedup();
    let Some(first) = lacking.first() else { return Ok(()) };
    let mistakes = lacking.iter().map(|runtime| Mistake {
        key: Some(runtime.to_string()),
        message: format!("no node has {runtime}"),
        fix: runtime_hint(*runtime).map(str::to_owned),
        ..Mistake::default()
    });
    let refused =
        ApiError::new(Code::RuntimeMissing, format!("{first} is not installed on any node"))
            .mistakes(mistakes.collect());
    Err(match runtime_hint(*first) {
        Some(line) => refused.hint(format!("on the node, as root: {line}")),
        None => refused,
    })
}

fn has_room(spec: &AppSpec, nodes: &[Capacity]) -> Result<(), ApiError> {
    for (name, component) in &spec.components {
        let fits = |node: &Capacity| node.cpu >= component.cpu && node.memory >= component.memory;
        if nodes.iter().any(fits) {
            continue;
        }
        let cpu = nodes.iter().map(|node| node.cpu).max().unwrap_or_default();
        let memory = nodes.iter().map(|node| node.memory).max().unwrap_or_default();
        return Err(ApiError::new(
            Code::TooLargeForNodes,
            format!(
                "one instance of `{name}` asks for {} and {} cores; the largest node has {memory} \
                 and {cpu} cores",
                component.memory, component.cpu
            ),
        )
        .hint("ask for less, or have the operator add a larger node"));
    }
    Ok(())
}
