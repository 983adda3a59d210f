"""A real archive, Orthanc, takes the outputs and gives them back: REST, C-STORE, DICOMweb."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.parser import BytesParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from cxrseg.runtime.files.own_files import is_ours
from helpers.dicom.patient import DX, IDENTITY, INSTANCE, SERIES, STUDY, references, xray

pytest.importorskip("highdicom", reason="needs the extra dicom")

ORTHANC = Path(shutil.which("Orthanc") or "/usr/sbin/Orthanc")
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(not ORTHANC.exists(), reason="needs the archive Orthanc"),
]
needs_dicomweb = pytest.mark.skipif(not DICOMWEB.exists(), reason="needs orthanc-dicomweb")
needs_dcmtk = pytest.mark.skipif(
    not all(map(shutil.which, ("storescu", "getscu"))), reason="needs dcmtk"
)

WE, ARCHIVE = "CXRSEG", "ARCHIVE"


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@dataclass(frozen=True)
class Archive:
    """A running Orthanc.

    Attributes:
        http: Port of the web interfaces.
        dicom: Port of the DICOM interface.
    """

    http: int
    dicom: int

    def ask(
        self,
        path: str,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        method: str | None = None,
    ) -> tuple[bytes, str]:
        """Return content and content type of an answer."""
        address = f"http://127.0.0.1:{self.http}{path}"
        request = urllib.request.Request(address, data, headers or {}, method=method)
        # Whatever proxy the machine has, it is not for the loopback interface.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return answer.read(), answer.headers.get("Content-Type") or ""

    def json(self, path: str, *args: Any) -> Any:
        return json.loads(self.ask(path, *args)[0])

    def file(self, sop_instance: str) -> Dataset:
        """Return an instance as the archive holds it."""
        (found,) = self.json("/tools/lookup", sop_instance.encode())
        return pydicom.dcmread(BytesIO(self.ask(f"/instances/{found['ID']}/file")[0]))


def configuration(folder: Path, http: int, dicom: int) -> dict[str, Any]:
    return {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpServerEnabled": True,
        "HttpPort": http,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": True,
        "DicomAet": ARCHIVE,
        "DicomPort": dicom,
        "DicomCheckCalledAet": True,
        # The DICOM port cannot be bound to one interface: nobody but this machine is served.
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomModalities": {
            "we": {
                "AET": WE,
                "Host": "127.0.0.1",
                "Port": 1,
                "AllowEcho": True,
                "AllowStore": True,
                "AllowGet": True,
            }
        },
        "OverwriteInstances": True,
        "Plugins": [str(DICOMWEB)] if DICOMWEB.exists() else [],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive")
    archive = Archive(*free_ports(2))
    settings, log = folder / "orthanc.json", folder / "log.txt"
    settings.write_text(json.dumps(configuration(folder, archive.http, archive.dicom)))
    with log.open("wb") as output:
        process = subprocess.Popen([ORTHANC, settings], stdout=output, stderr=output)
    try:
        for _ in range(150):
            try:
                archive.ask("/system")
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, log.read_text()[-2000:]
                time.sleep(0.2)
        else:
            pytest.fail(f"Orthanc does not answer: {log.read_text()[-2000:]}")
        yield archive
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def archive(server: Archive) -> Archive:
    """Return the archive, empty."""
    for patient in server.json("/patients"):
        server.ask(f"/patients/{patient}", method="DELETE")
    assert server.json("/instances") == []
    return server


NAMES = ("x.dcm", "x_lungs.dcm", "x_overlay.dcm")

Files = Callable[[], dict[str, Path]]


@pytest.fixture
def files(run_cxrseg, model_file, xrays: Path) -> Files:
    """Segment an X-ray; return name -> path of the X-ray, the segmentation, the overlay."""

    def run() -> dict[str, Path]:
        path = xray(xrays / "x.dcm")
        result = run_cxrseg(path, "--format", "seg,sc", "--model", model_file(), "--device", "cpu")
        assert (result.code, result.err) == (0, "")
        return {name: xrays / name for name in NAMES}

    return run


def check(back: Dataset, sent: Path) -> None:
    """Compare what an archive gave back with the file that it was given."""
    original = pydicom.dcmread(sent)
    np.testing.assert_array_equal(back.pixel_array, original.pixel_array)
    assert {k: str(back.get(k)) for k in IDENTITY} == IDENTITY
    assert back.SOPClassUID == original.SOPClassUID
    assert back.SOPInstanceUID == original.SOPInstanceUID
    if sent.name != NAMES[0]:
        assert references(back) == [(STUDY, SERIES), (DX, INSTANCE)]


def uid_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def check_study(archive: Archive, sent: dict[str, Path]) -> None:
    """Look for one study of three series that holds the files as they were sent."""
    (study,) = archive.json("/studies")
    assert len(archive.json(f"/studies/{study}")["Series"]) == 3
    assert len(archive.json("/instances")) == 3
    for path in sent.values():
        check(archive.file(uid_of(path)), path)


def test_rest(archive: Archive, files: Files, tmp_path: Path) -> None:
    for _ in range(2):
        # The second run replaces what the first one left in the archive.
        sent = files()
        for path in sent.values():
            archive.ask("/instances", path.read_bytes())
    check_study(archive, sent)
    copy = tmp_path / "copy.dcm"
    archive.file(uid_of(sent["x_lungs.dcm"])).save_as(copy)
    assert is_ours(copy)
    (found,) = archive.json("/tools/lookup", uid_of(sent["x_lungs.dcm"]).encode())
    tags = archive.json(f"/instances/{found['ID']}/simplified-tags")
    assert [x["SegmentLabel"] for x in tags["SegmentSequence"]] == ["right lung", "left lung"]


def dcmtk(
    program: str, archive: Archive, options: Sequence[str | Path], files: Sequence[Path]
) -> None:
    address = ["127.0.0.1", str(archive.dicom)]
    command = [program, "-aet", WE, "-aec", ARCHIVE, *options, *address, *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_dcmtk
def test_c_store_and_c_get(archive: Archive, files: Files, tmp_path: Path) -> None:
    for _ in range(2):
        sent = files()
        # -R: without it storescu proposes 64 kinds, and segmentations are none of them.
        dcmtk("storescu", archive, ["-R"], list(sent.values()))
    check_study(archive, sent)
    home = tmp_path / "got"
    home.mkdir()
    for path in sent.values():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        keys = [
            "QueryRetrieveLevel=IMAGE",
            f"StudyInstanceUID={STUDY}",
            f"SeriesInstanceUID={dataset.SeriesInstanceUID}",
            f"SOPInstanceUID={dataset.SOPInstanceUID}",
        ]
        options = [part for key in keys for part in ("-k", key)]
        dcmtk("getscu", archive, ["-S", "-od", home, *options], [])
    got = {uid_of(path): path for path in home.iterdir()}
    assert len(got) == 3
    for path in sent.values():
        check(pydicom.dcmread(got[uid_of(path)]), path)


BOUNDARY = "b0undary"


def stow(archive: Archive, paths: list[Path]) -> Any:
    """Store instances (PS3.18 10.5); return the answer's data set as JSON model."""
    parts = [
        f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + path.read_bytes()
        for path in paths
    ]
    body = b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}',
        "Accept": "application/dicom+json",
    }
    return archive.json("/dicom-web/studies", body, headers)


def wado(archive: Archive, path: str, accept: str) -> list[bytes]:
    """Retrieve the parts of a resource (PS3.18 10.4)."""
    accept = f'multipart/related; type="{accept}"'
    body, kind = archive.ask(f"/dicom-web{path}", None, {"Accept": accept})
    message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    assert message.is_multipart()
    return [bytes(part.get_payload(decode=True)) for part in message.get_payload()]


@needs_dicomweb
def test_dicomweb(archive: Archive, files: Files) -> None:
    sent = files()
    answer = Dataset.from_json(stow(archive, list(sent.values())))
    assert not answer.get("FailedSOPSequence")
    stored = {item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence}
    assert stored == {uid_of(path) for path in sent.values()}
    check_study(archive, sent)

    parts = wado(archive, f"/studies/{STUDY}", "application/dicom")
    got = {x.SOPInstanceUID: x for x in map(pydicom.dcmread, map(BytesIO, parts))}
    assert len(parts) == len(got) == 3
    for path in sent.values():
        check(got[uid_of(path)], path)

    lungs = pydicom.dcmread(sent["x_lungs.dcm"])
    query = f"/dicom-web/studies/{STUDY}/series?Modality=SEG"
    (series,) = archive.json(query, None, {"Accept": "application/dicom+json"})
    assert Dataset.from_json(series).SeriesInstanceUID == lungs.SeriesInstanceUID
    home = f"/studies/{STUDY}/series/{lungs.SeriesInstanceUID}/instances/{lungs.SOPInstanceUID}"
    (tags,) = archive.json(f"/dicom-web{home}/metadata", None, {"Accept": "application/dicom+json"})
    tags.pop("7FE00010", None)  # a link to the pixels
    assert references(Dataset.from_json(tags)) == [(STUDY, SERIES), (DX, INSTANCE)]
    picture = pydicom.dcmread(sent["x_overlay.dcm"])
    home = f"/studies/{STUDY}/series/{picture.SeriesInstanceUID}"
    home += f"/instances/{picture.SOPInstanceUID}"
    (frame,) = wado(archive, f"{home}/frames/1", "application/octet-stream")
    assert frame == picture.pixel_array.tobytes()
