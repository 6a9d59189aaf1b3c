"""A client whose data are pictures: the same orders, privacy and refusals as with texts."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from client.base import loaded_base
from client.evaluation import score
from client.inputs import per_example_loss, prepare
from client.ledger import ClientLedger
from client.lineage import Lineages
from client.protect import DATA_UNUSABLE
from client.worker import ClientWorker
from motet.data import read_data
from motet.modeling import ModelError, load_base
from motet.recipe import parse_recipe
from motet.vision import MEAN, STD, normalised, write_preprocessor

PRIVATE = "privacy: {noise_multiplier: 1.0, sampling_rate: 0.3}\n"


def recipe_of(method="flora", extra="", pooling="mean", size=8):
    return parse_recipe(
        "name: t\nbase_model: {tiny: tiny-dinov2}\n"
        f"task: {{kind: image-classification, num_labels: 2, image_size: {size}, pooling: {pooling}}}\n"
        "data: {path: x, classes: [dark, light]}\nadapter: {lora_rank: 4, targets: [q_proj, v_proj, fc2]}\n"
        f"method: {{name: {method}}}\ncohort: {{clients: [a, b]}}\n"
        "training: {rounds: 2, local_steps: 3, expected_batch_size: 8, learning_rate: 5e-3}\n"
        f"seed: 3\n{extra}"
    )


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for label, name in enumerate(["dark", "light"]):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            values = rng.integers(0, 120, (8, 8, 3)) + 120 * label
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


@pytest.mark.parametrize("extra", ["", PRIVATE], ids=["plain", "private"])
@pytest.mark.parametrize("method", ["flora", "fed-sb", "ffa"])
def test_an_order_on_a_folder_of_pictures_is_answered(folder, order_of, tmp_path, method, extra):
    recipe = recipe_of(method, extra)
    reply = ClientWorker("a", folder, tmp_path / "state").handle(order_of(recipe))
    assert reply.error_message == ""
    assert reply.is_private == bool(extra)
    if extra:
        (row, *_) = ClientLedger(tmp_path / "state/ledger.jsonl").rows()
        assert row["data_set"] == Lineages(tmp_path / "state").identify(folder).name


def test_a_broken_picture_refuses_the_round_charges_nothing_and_its_name_stays_in_the_clients_log(
    folder, order_of, tmp_path, caplog
):
    (folder / "dark/jane-doe.png").write_bytes(b"broken")
    reply = ClientWorker("a", folder, tmp_path / "state").handle(order_of(recipe_of(extra=PRIVATE)))
    assert reply.error_code == "client_failed"
    assert reply.error_message == DATA_UNUSABLE
    assert "jane-doe" not in reply.error_message
    assert "jane-doe.png: no readable PNG or JPEG" in caplog.text
    assert ClientLedger(tmp_path / "state/ledger.jsonl").rows() == []


def test_the_budget_of_a_folder_is_that_of_its_pictures_whatever_they_are_called(folder, tmp_path):
    lineages = Lineages(tmp_path / "state")
    first = lineages.identify(folder)
    assert (first.num_rows, first.known_rows) == (20, 0)
    (folder / "dark/0.png").rename(folder / "light/x.png")
    (folder / "dark/1.png").write_bytes(b"other")
    again = lineages.identify(folder.rename(tmp_path / "copy"))
    assert (again.name, again.known_rows) == (first.name, 19)


@pytest.mark.parametrize("pooling", ["mean", "model"])
def test_a_pictures_loss_depends_on_that_picture_alone(folder, pooling):
    recipe = recipe_of(pooling=pooling)
    base = loaded_base(recipe)
    ready = prepare(recipe, base, read_data(recipe, folder))
    with torch.no_grad():
        together, right = per_example_loss(recipe, base.model, ready, range(20))
        alone = torch.cat([per_example_loss(recipe, base.model, ready, [i])[0] for i in range(20)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert together.std() > 1e-4  # positive control: pictures differ
    assert right.shape == (20,)


def test_the_two_ways_of_pooling_are_the_class_token_and_the_mean_of_the_patches():
    models = {p: load_base(recipe_of(pooling=p)) for p in ("mean", "model")}
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        for name, model in models.items():
            hidden = model.backbone(pixel_values=x).last_hidden_state
            assert hidden.shape[1] == 1 + 4
            wanted = hidden[:, 1:].mean(1) if name == "mean" else hidden[:, 0]
            torch.testing.assert_close(model(pixel_values=x).logits, model.head(wanted))
        assert not torch.allclose(models["mean"](x).logits, models["model"](x).logits)


def test_scores_of_pictures_stand_in_the_order_given(folder, monkeypatch):
    from aggregation.adapter import AdapterState

    recipe = recipe_of()
    examples = read_data(recipe, folder)
    whole = score(recipe, AdapterState(), examples)
    monkeypatch.setattr("client.evaluation.BATCH", 3)
    torch.testing.assert_close(
        score(recipe, AdapterState(), examples).losses, whole.losses, rtol=0, atol=1e-5
    )
    assert "accuracy" in whole.metric()


def test_an_image_processor_of_transformers_prepares_pictures_as_the_client_does(tmp_path):
    from motet.data import pixels

    write_preprocessor(8, tmp_path)
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    ours = normalised(torch.from_numpy(pixels(stream.getvalue(), 8))[None])
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    theirs = processor(images=picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-2)
    assert ours.std() > 0.3
    assert len(MEAN) == len(STD) == 3


def test_a_base_that_can_not_see_is_refused(tmp_path):
    from transformers import BertConfig

    BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    recipe = recipe_of()
    base = recipe.base_model.model_copy(update={"tiny": None, "path": str(tmp_path)})
    with pytest.raises(ModelError, match="bert can not classify images"):
        load_base(recipe.model_copy(update={"base_model": base}))
    odd = recipe.model_copy(update={"task": recipe.task.model_copy(update={"image_size": 9})})
    with pytest.raises(ModelError, match="9 pixels do not divide into patches of 4"):
        load_base(odd)
