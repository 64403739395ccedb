"""The real Triton with the real model: clean labels are read in full, and a dead model's process heals."""

import io
from decimal import Decimal

import pytest
from PIL import Image

from infra.local import triton
from infra.local.labels import render_label
from services.inference.images import clean_picture
from services.inference.readings import read_label
from services.inference.triton import TritonOcr
from shared.errors import Rejected, Unavailable
from tests.labels import LABELS, KnownLabel
from tests.polling import eventually
from tests.running_stack import Stack


def ocr_of(stack: Stack) -> TritonOcr:
    return TritonOcr(f"127.0.0.1:{stack.instance.settings.triton_grpc_port}", 30)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("known", LABELS, ids=lambda known: known.name)
async def test_reads_every_field(stack: Stack, known: KnownLabel, image_format: str) -> None:
    ocr = ocr_of(stack)
    result = await ocr.read(await clean_picture(render_label(known.label, image_format=image_format)))
    await ocr.close()
    reading = read_label(result.lines)
    assert reading is not None
    assert {name: amount.value for name, amount in reading.amounts.items()} == known.expected
    assert len(result.weights_sha256) == 64


async def test_reads_the_demo_label_by_amounts_alone(stack: Stack) -> None:
    amounts = {"energy_kcal": "374", "fat_g": "7.1", "carbohydrate_g": "58.7", "protein_g": "13.5", "salt_g": "0.02"}
    ocr = ocr_of(stack)
    result = await ocr.read(render_label(amounts))
    await ocr.close()
    reading = read_label(result.lines)
    assert reading is not None
    assert {name: amount.value for name, amount in reading.amounts.items()} == {
        name: Decimal(amount) for name, amount in amounts.items()
    }


async def test_a_picture_without_text_has_no_lines(stack: Stack) -> None:
    ocr = ocr_of(stack)
    white = io.BytesIO()
    Image.new("RGB", (400, 300), "white").save(white, "PNG")
    result = await ocr.read(white.getvalue())
    await ocr.close()
    assert result.lines == []


async def test_bytes_that_are_no_picture_are_the_pictures_fault(stack: Stack) -> None:
    ocr = ocr_of(stack)
    with pytest.raises(Rejected):
        await ocr.read(b"no picture")
    await ocr.close()


@pytest.mark.faults
@pytest.mark.parametrize("victim", ["triton-stub", "triton"])
async def test_a_killed_triton_is_unavailable_and_comes_back(stack: Stack, victim: str) -> None:
    ocr = ocr_of(stack)
    await eventually(lambda: triton.ready(stack.instance.settings.triton_grpc_port), seconds=60, every=0.5)
    stack.kill(victim)
    with pytest.raises(Unavailable):
        await ocr.read(render_label())

    async def reads() -> bool:
        try:
            return bool((await ocr.read(render_label())).lines)
        except Unavailable:
            return False

    assert await eventually(reads, seconds=60, every=0.5)
    await ocr.close()
