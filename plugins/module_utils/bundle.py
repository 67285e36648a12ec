"""The bundle: a folder with everything that a deployment without the internet needs, described by manifest.json.

Image archives made by hand may lie in it too, or alone in a folder without a manifest.

`Bundle` opens all that holds images, `check` compares what an inventory needs
with what the bundle really holds and says everything that is wrong at once. docs/bundle.md describes the format.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from . import debian, wheels
from .bundle_manifest import (
    COPY_AGAIN,
    MANIFEST,
    BundledImage,
    BundleError,
    File,
    Item,
    Manifest,
    load,
)
from .image_archive import ENDINGS, Archives, SpaceError
from .image_reference import ImageReferenceError, normalise, parse
from .oci import (
    Blob,
    Image,
    Layout,
    LayoutError,
    MissingFileError,
    blob_file,
    entries,
    hash_stream,
    images,
    open_layout,
    resolve,
    same_platform,
)
from .progress import Progress, silent
from .verified_files import VerifiedFiles

CATEGORIES = ("missing", "corrupt", "contradictory", "wrong platform", "superfluous")

NOT_THERE = "the file is not there"
NOT_NEEDED = "nothing needs it"
ADD = "add it where the bundle is made, then copy the bundle again"
ADD_IMAGE = f"{ADD}; or put an archive of it into the folder ('docker save')"
SAVE_AGAIN = "copy it again or save it again ('docker save'), or take it out of the folder"


class Needs(NamedTuple):
    """What an inventory needs.

    `images`: reference -> who needs it. `snaps`: name -> track (``1.34``) or "". `charts`: name -> version or "".
    `binaries`: name -> platform. `requirements`: ``name==version`` for `interpreters` (``3.11``). `packages`: names of
    Debian packages for hosts of `distribution` (``debian-13``), which have `installed`; if that is empty, nobody knows.
    """

    images: Mapping[str, str] = {}
    snaps: Mapping[str, str] = {}
    charts: Mapping[str, str] = {}
    binaries: Mapping[str, str] = {}
    requirements: tuple[str, ...] = ()
    interpreters: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    distribution: str = ""
    installed: tuple[str, ...] = ()
    platform: str = "linux/amd64"


class Problem(NamedTuple):
    """One line of the report; `category` is one of CATEGORIES."""

    category: str
    subject: str
    digest: str
    file: str
    text: str
    cure: str


class Holding(NamedTuple):
    """What `check` found: `images` whole and verified, by full reference; `items` verified; all problems.

    `wheels` and `debs`: path inside the bundle -> digest, of those that are needed and verified.
    """

    images: dict[str, Image]
    archives: dict[str, str]
    items: list[Item]
    wheels: dict[str, str]
    debs: dict[str, str]
    problems: list[Problem]

    @property
    def fatal(self) -> list[Problem]:
        """The problems that stop a deployment: all but what is superfluous."""
        return [problem for problem in self.problems if problem.category != "superfluous"]


# ---- images, of the manifest and of archives made by hand --------------------------------------------------------


class ContradictionError(Exception):
    """Several archives hold different images under one name; `images` are those."""

    def __init__(self, images: list[BundledImage]) -> None:
        super().__init__(" and ".join(f"{image.archive} ({image.digest})" for image in images))
        self.images = images


class Bundle:
    """A bundle as it lies in its folder.

    `manifest` is empty if there is none but archives made by hand. `hand_made` are their file names, `broken` those of
    them that cannot be used, with the reason. `images`: reference -> all images of that name, the manifest's first; ""
    -> images without a name.
    """

    def __init__(self, folder: Path, archives: Archives | None = None) -> None:
        """Open what is in `folder`; archives that `archives` does not remember are read. Raises BundleError."""
        self.folder = folder
        self._archives = archives or Archives()
        self._layouts: dict[str, Layout | LayoutError] = {}
        dropped = sorted(path.name for path in folder.glob("*") if path.name.endswith(ENDINGS) and not path.is_dir())
        only_archives = dropped and not (folder / MANIFEST).exists()
        self.manifest = Manifest((), ()) if only_archives else load(folder)
        named = {image.archive for image in self.manifest.images}
        named.update(file.path for item in self.manifest.items for file in item.files)
        self.hand_made = [name for name in dropped if name not in named and not name.startswith(".")]
        self.broken: dict[str, LayoutError] = {}
        self.images: dict[str, list[BundledImage]] = {}
        for image in self.manifest.images:
            self.images.setdefault(image.reference, []).append(image)
        for name in self.hand_made:
            try:
                found = images(self.layout(name))
            except LayoutError as error:
                self.broken[name] = error
                continue
            for image in found:
                held = BundledImage(image.reference, image.digest, image.platform, image.size, name)
                self.images.setdefault(image.reference, []).append(held)

    def layout(self, archive: str) -> Layout:
        """The layout of an archive that the manifest names or that was made by hand. Raises LayoutError."""
        if archive not in self._layouts:
            path = self.folder / archive
            try:
                if self.folder.resolve() not in path.resolve().parents:
                    raise LayoutError(archive, "leads out of the bundle")
                by_hand = archive in self.hand_made
                self._layouts[archive] = self._archives.open(path) if by_hand else open_layout(path)
            except LayoutError as error:
                self._layouts[archive] = error
            except OSError as error:
                self._layouts[archive] = LayoutError(archive, f"cannot be read ({error.strerror})")
        layout = self._layouts[archive]
        if isinstance(layout, LayoutError):
            raise layout
        return layout

    def find(self, reference: str, platform: str) -> BundledImage | None:
        """The image of a full reference, one for `platform` if there is one; None if nothing has that name.

        Archives may hold the same image in several forms (its configuration is the same then); the manifest's is taken
        first. Raises ContradictionError if they hold different ones.
        """
        wanted = parse(reference)
        found = self.images.get(reference, [])
        if not found and wanted.digest and wanted.tag:
            # Asked for by tag and digest, named by its tag alone; `find_image` compares the digest.
            found = self.images.get(f"{wanted.name}:{wanted.tag}", [])
            found = [image for image in found if image.digest == wanted.digest] or found
        found = [image for image in found if same_platform(image.platform, platform)] or found
        if len({image.digest for image in found}) > 1:
            try:
                different = {find_image(self.layout(image.archive), image, reference, "").blobs[1] for image in found}
            except LayoutError:
                return found[0]  # whoever opens it will say what is wrong
            if len(different) > 1:
                raise ContradictionError(found)
        return found[0] if found else None

    def prune(self) -> None:
        """Forget archives that are not there any more."""
        self._archives.prune()


# ---- what is needed against what is there -----------------------------------------------------------------------


def check(
    folder: Path,
    needs: Needs,
    verified: VerifiedFiles | None = None,
    archives: Archives | None = None,
    progress: Progress = silent,
) -> Holding:
    """Compare needs with the bundle; every needed file is hashed, and unpacked if it is in a compressed archive.

    Raises BundleError if there is no valid manifest, or no room to unpack.
    """
    bundle = Bundle(folder, archives)
    checker = _Checker(bundle, verified or VerifiedFiles(), progress)
    checker.items(needs)
    checker.images(needs)
    checker.run_verification()
    bundle.prune()
    problems = sorted(checker.problems, key=lambda problem: (CATEGORIES.index(problem.category), problem))
    return Holding(checker.held, checker.archives, checker.held_items, checker.held_wheels, checker.held_debs, problems)


class _Checker:
    def __init__(self, bundle: Bundle, verified: VerifiedFiles, progress: Progress) -> None:
        self.bundle = bundle
        self.progress = progress
        self.folder = bundle.folder
        self.manifest = bundle.manifest
        self.verified = verified
        self.problems: list[Problem] = []
        self.held: dict[str, Image] = {}
        self.archives: dict[str, str] = {}
        self.held_items: list[Item] = []
        self.held_wheels: dict[str, str] = {}
        self.held_debs: dict[str, str] = {}
        # What to hash at the end, each file once, and for whom.
        self._verifiers: dict[str, Callable[[File], None]] = {}
        self._jobs: dict[tuple[File, Callable[[File], None]], set[str]] = {}

    def problem(self, category: str, subject: str, text: str, cure: str, digest: str = "", file: str = "") -> None:
        self.problems.append(Problem(category, subject, digest, file or MANIFEST, text, cure))

    # -- files

    def _want(self, subject: str, file: File, verify: Callable[[File], None]) -> None:
        self._jobs.setdefault((file, verify), set()).add(subject)

    def _verify_file(self, file: File) -> None:
        path = self.folder / file.path
        if self.folder.resolve() not in path.resolve().parents:
            raise LayoutError(file.path, "leads out of the bundle")
        if not path.is_file():
            raise MissingFileError(file.path)
        size = path.stat().st_size
        if file.size >= 0 and size != file.size:
            raise LayoutError(file.path, f"has {size} bytes instead of {file.size}")

        def verify() -> None:
            with path.open("rb") as stream:
                found = hash_stream(stream)
            if found != file.digest:
                raise LayoutError(file.path, f"its content has the digest {found} instead of {file.digest}")

        self.verified.check(path, 0, file.digest, verify)

    def _verify_blob(self, archive: str, file: File) -> None:
        layout, blob = self.bundle.layout(archive), Blob(file.digest, file.size)
        name = blob_file(blob.digest)
        # The size that the image states is compared even where the digest is remembered.
        if layout.size(name) != blob.size:
            layout.verify(blob)
        path, offset = layout.location(name)
        self.verified.check(path, offset, blob.digest, lambda: layout.verify(blob))

    def _unpack(self, archive: str) -> None:
        """Make the blobs of a compressed archive readable; what was hashed on the way is not hashed again."""
        if archive not in self.bundle.hand_made:
            return
        layout = self.bundle.layout(archive)
        wanted = [Blob(file.digest, file.size) for file, verify in self._jobs if verify is self._verifiers[archive]]
        try:
            for digest in layout.require(wanted):
                self.verified.check(*layout.location(blob_file(digest)), digest, lambda: None)
        except LayoutError as error:
            for reference in [name for name, held in self.archives.items() if held == archive and name in self.held]:
                self.problem(
                    "corrupt", f"image {reference}", error.problem, SAVE_AGAIN, self.held[reference].digest, archive
                )
            self._jobs = {
                job: subjects for job, subjects in self._jobs.items() if job[1] is not self._verifiers[archive]
            }
        except SpaceError as error:
            raise BundleError(f"{self.folder}: {error}") from error
        except OSError as error:
            raise BundleError(f"{error.filename}: {archive} cannot be unpacked ({error.strerror})") from error

    def _cure(self, file: str) -> str:
        return SAVE_AGAIN if file in self.bundle.hand_made else COPY_AGAIN

    def run_verification(self) -> None:
        """Hash what was asked for: sha256 frees the interpreter, so that threads use all cores."""
        for archive in self._verifiers:
            self._unpack(archive)

        def attempt(job: tuple[File, Callable[[File], None]]) -> tuple[str, str] | None:
            file, verify = job
            try:
                verify(file)
            except MissingFileError as error:
                return ("corrupt", "does not hold it") if file.path in self.bundle.hand_made else _verdict(error)
            except (LayoutError, OSError) as error:
                return _verdict(error)
            return None

        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            results = []
            done, total = 0, sum(max(file.size, 0) for file, _verify in self._jobs)
            for job, result in zip(self._jobs.items(), pool.map(attempt, self._jobs)):
                results.append((job, result))
                done += max(job[0][0].size, 0)
                self.progress("verifying", done, total)
        found = [
            Problem(result[0], subject, file.digest, file.path, result[1], self._cure(file.path))
            for ((file, _verify), subjects), result in results
            if result is not None
            for subject in subjects
        ]
        self.verified.save()
        self.problems += found
        bad = {problem.subject for problem in self.problems if problem.category in ("missing", "corrupt")}
        self.held = {ref: image for ref, image in self.held.items() if f"image {ref}" not in bad}
        self.held_items = [item for item in self.held_items if f"{item.kind} {item.name}" not in bad]
        bad_files = {problem.file for problem in found}
        self.held_wheels = {file: digest for file, digest in self.held_wheels.items() if file not in bad_files}
        self.held_debs = {file: digest for file, digest in self.held_debs.items() if file not in bad_files}

    # -- snaps, charts, binaries, wheels, debs

    def items(self, needs: Needs) -> None:
        wanted: dict[tuple[str, str], str] = {}
        for kind, names in (("snap", needs.snaps), ("chart", needs.charts), ("binary", needs.binaries)):
            for name, constraint in names.items():
                wanted[kind, name] = constraint
                self._item(kind, name, constraint)
        if needs.requirements:
            self._wheels(needs)
        if needs.packages:
            self._debs(needs)
        for item in self.manifest.items:
            known = (item.kind, item.name) in wanted or item.kind == "wheel" or item.files[0].path in self.held_debs
            if not known:
                subject = f"{item.kind} {item.name} {item.version}"
                self.problem("superfluous", subject, NOT_NEEDED, "", item.files[0].digest, item.files[0].path)

    def _item(self, kind: str, name: str, constraint: str) -> None:
        subject = f"{kind} {name}"
        candidates = [item for item in self.manifest.of(kind) if item.name == name]
        fitting = [item for item in candidates if _fits(item, constraint)]
        if not fitting:
            category, text = "missing", " ".join(f"{MANIFEST} does not name {name} {constraint}".split())
            if candidates:
                held = ", ".join(item.platform if kind == "binary" else item.version for item in candidates)
                category = "wrong platform" if kind == "binary" else "missing"
                text = f"needed: {constraint}; the bundle holds {held}"
            self.problem(category, subject, text, ADD)
            return
        item = fitting[-1]
        self.held_items.append(item)
        for file in item.files:
            self._want(subject, file, self._verify_file)

    def _wheels(self, needs: Needs) -> None:
        known: dict[wheels.Wheel, wheels.Metadata] = {}
        files: dict[str, Item] = {}
        for item in self.manifest.of("wheel"):
            file = item.files[0]
            try:
                wheel = wheels.parse_file_name(file.path)
                known[wheel] = wheels.read_metadata(self.folder / file.path)
            except wheels.WheelError as error:
                absent = not (self.folder / file.path).is_file()
                category, text = ("missing", NOT_THERE) if absent else ("corrupt", str(error))
                subject = f"wheel {item.name} {item.version}"
                self.problem(category, subject, text, COPY_AGAIN, file.digest, file.path)
                continue
            files[file.path] = item
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(needs.platform.split("/")[1], "")
        for version in needs.interpreters:
            interpreter = wheels.Interpreter.of(version, machine)
            found, missing = wheels.closure(known, needs.requirements, interpreter)
            for requirement, text in missing.items():
                self.problem("missing", f"wheel {requirement}", text, ADD)
            for wheel in found.values():
                item = files[wheel.file]
                self.held_wheels[wheel.file] = item.files[0].digest
                self._want(f"wheel {item.name} {item.version}", item.files[0], self._verify_file)

    def _debs(self, needs: Needs) -> None:
        """The packages and what they depend on; apt decides on the host which of them it lacks."""
        platforms = {f"{needs.distribution}/{architecture}" for architecture in (needs.platform.split("/")[1], "all")}
        debs = self.manifest.of("deb")
        fitting = {item.name: item for item in debs if item.platform in platforms}
        for name in sorted(set(needs.packages) - set(fitting)):
            others = sorted({item.platform for item in debs if item.name == name})
            text = f"{MANIFEST} does not name it"
            if others:
                text = f"needed for {needs.distribution}; the bundle holds it for {', '.join(others)}"
            self.problem("wrong platform" if others else "missing", f"deb {name}", text, ADD)
        chosen, missing = debian.closure(
            needs.packages,
            {name: item.depends for name, item in fitting.items()},
            {name: item.provides for name, item in fitting.items()},
            needs.installed,
        )
        for name, dependent in sorted(missing.items()) if needs.installed else ():
            text = f"neither in the bundle for {needs.distribution} nor installed on the head; needed by {dependent}"
            self.problem("missing", f"deb {name}", text, ADD)
        for name in sorted(chosen):
            item = fitting[name]
            self.held_debs[item.files[0].path] = item.files[0].digest
            self._want(f"deb {item.name} {item.version}", item.files[0], self._verify_file)

    # -- images

    def images(self, needs: Needs) -> None:
        wanted: dict[str, str] = {}
        for reference, reason in sorted(needs.images.items()):
            try:
                wanted.setdefault(normalise(reference), reason)
            except ImageReferenceError as error:
                self.problem("missing", f"image {reference}", str(error), f"correct the name; needed by {reason}")
        for reference, reason in wanted.items():
            try:
                image = self.bundle.find(reference, needs.platform)
            except ContradictionError as error:
                text, files = f"several images have this name: {error}", ", ".join(i.archive for i in error.images)
                self.problem(
                    "contradictory", f"image {reference}", text, "take all but one out of the folder", "", files
                )
                continue
            if image is None:
                text = f"neither {MANIFEST} nor an archive names it; needed by {reason}"
                self.problem("missing", f"image {reference}", text, ADD_IMAGE)
            else:
                self._image(reference, image, needs.platform)
        for name, error in self.bundle.broken.items():
            self.problem("corrupt", f"archive {name}", error.problem, SAVE_AGAIN, file=name)
        used = {(self.archives[reference], image.digest) for reference, image in self.held.items()}
        for reference, images_of_name in sorted(self.bundle.images.items()):
            asked_for = [name for name in wanted if name == reference or name.startswith(f"{reference}@")]
            for image in images_of_name:
                if (image.archive, image.digest) in used:
                    continue
                if not reference:
                    text = "an image without a name: save it by its name, not by its number"
                    self._unused(f"image in {image.archive}", text, image)
                elif not asked_for:
                    self._unused(f"image {reference}", NOT_NEEDED, image)
                elif all(name in self.held for name in asked_for):  # or else it is in the report already
                    self._unused(f"image {reference}", "another of this name is taken", image)

    def _unused(self, subject: str, text: str, image: BundledImage) -> None:
        self.problem("superfluous", subject, text, "", image.digest, image.archive)

    def _image(self, reference: str, bundled: BundledImage, platform: str) -> None:
        subject = f"image {reference}"
        by_hand = bundled.archive in self.bundle.hand_made

        def wrong(category: str, text: str, cure: str, file: str = "") -> None:
            self.problem(category, subject, text, cure, bundled.digest, file or bundled.archive)

        if not same_platform(bundled.platform, platform):
            cure = f"save it where it was pulled for {platform} ('docker pull --platform')" if by_hand else ADD
            wrong("wrong platform", f"it is for {bundled.platform or 'none'}, the nodes are {platform}", cure)
            return
        try:
            layout = self.bundle.layout(bundled.archive)
            image = find_image(layout, bundled, reference, platform)
        except (LayoutError, OSError) as error:
            file = bundled.archive
            if isinstance(error, LayoutError) and not by_hand:
                file = _inside(file, error.file)
            wrong(*_verdict(error), self._cure(bundled.archive), file)
            return
        if isinstance(image, str):
            wrong("wrong platform", f"its configuration says {image}, the nodes are {platform}", ADD)
            return
        self.held[reference] = image
        self.archives[reference] = bundled.archive
        verify = self._verifiers.setdefault(bundled.archive, partial(self._verify_blob, bundled.archive))
        for blob in image.blobs:
            # Inside an archive made by hand a blob has a name that tells nobody anything.
            name = bundled.archive if by_hand else _inside(bundled.archive, blob_file(blob.digest))
            self._want(subject, File(name, blob.digest, blob.size), verify)


def _verdict(error: LayoutError | OSError) -> tuple[str, str]:
    """Category and words for what reading a file of the bundle ended with."""
    if isinstance(error, MissingFileError):
        return "missing", NOT_THERE
    if isinstance(error, LayoutError):
        return "corrupt", error.problem
    return "corrupt", f"cannot be read ({error.strerror})"


def _fits(item: Item, constraint: str) -> bool:
    if not constraint:
        return True
    if item.kind == "binary":
        return item.platform == constraint
    if item.kind == "snap":
        # Track 1.34 holds v1.34.4.
        return (item.version.lstrip("v") + ".").startswith(constraint + ".")
    return item.version == constraint


def _inside(archive: str, file: str) -> str:
    """Path of a layout's file as an administrator finds it in the bundle; a tar's member behind a colon."""
    if PurePosixPath(archive).name == file:
        return archive
    return f"{archive}:{file}" if archive.endswith(".tar") else f"{archive}/{file}"


def find_image(layout: Layout, bundled: BundledImage, reference: str, platform: str) -> Image | str:
    """The image that the manifest states, whole as far as its JSON goes; a platform if it is for another one.

    An empty `platform` stands for any.

    Raises LayoutError if the layout does not hold it, or holds something else under its name.
    """
    named = entries(layout)
    of_name = [descriptor for name, descriptor in named if name == bundled.reference]
    candidates = [descriptor for _name, descriptor in named if descriptor.get("digest") == bundled.digest] or of_name
    wanted = parse(reference).digest
    for descriptor in candidates:
        for image in resolve(layout, descriptor, ""):
            if image.digest != bundled.digest:
                continue
            if wanted and wanted not in (image.digest, descriptor.get("digest")):
                raise LayoutError("index.json", f"holds {image.digest}, asked for is {wanted}")
            if platform and not same_platform(image.platform, platform):
                return image.platform or "no platform"
            if image.size != bundled.size:
                problem = f"{image.digest} has {image.size} bytes, {MANIFEST} states {bundled.size}"
                raise LayoutError("index.json", problem)
            return image._replace(reference=reference, platform=platform or image.platform)
    held = ", ".join(str(descriptor.get("digest")) for descriptor in of_name)
    problem = f"does not hold {bundled.digest}" + (f"; under this name it has {held}" if held else "")
    raise LayoutError("index.json", problem)


# ---- in words ---------------------------------------------------------------------------------------------------


def report(folder: Path, problems: Iterable[Problem]) -> str:
    """All problems as one text for a person: reference, digest, file and cure of each; what nobody needs in brief."""
    problems = list(problems)
    counts = [
        f"{count} {category}"
        for category in CATEGORIES
        for count in [sum(problem.category == category for problem in problems)]
        if count
    ]
    lines = [f"Bundle {folder}: {', '.join(counts) or 'nothing is wrong'}"]
    for category in CATEGORIES:
        chosen = [problem for problem in problems if problem.category == category]
        if chosen:
            lines += ["", f"{category}:"]
        for problem in chosen:
            if category == "superfluous":
                note = "" if problem.text == NOT_NEEDED else f": {problem.text}"
                lines.append(f"  {problem.subject} {problem.digest} ({problem.file}){note}")
                continue
            lines.append(f"  {problem.subject}")
            lines.append(f"    {problem.text}")
            if problem.digest:
                lines.append(f"    digest: {problem.digest}")
            if problem.file:
                lines.append(f"    file:   {problem.file}")
            lines.append(f"    cure:   {problem.cure}")
    sources = ("chart ", "binary helm")
    if any(problem.subject.startswith(sources) and problem.category != "superfluous" for problem in problems):
        lines += ["", "Images of charts are not in this report: they are known when chart and helm are whole."]
    return "\n".join(lines)


def human_size(size: float) -> str:
    """``737 MB``."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
