"""The contact sheet of a preview: as one page that needs nothing else, and as one picture."""

from PIL import Image, ImageDraw, ImageFont

from trainer.preview import Picture, Preview
from trainer.reports import pages

# Sides in pixels between which pictures are shown; smaller ones are enlarged by a whole number.
LEAST, MOST = 96, 256
# Pictures up to this side are kept exact on the page.
EXACT = 64
# Of the sheet, in pixels.
MARGIN, GAP, TEXT, LINE, HEADING = 16, 12, 12, 16, 18
# Lines that a caption of the sheet has at most.
MOST_LINES = 14
INK, SOFT, PAPER, WARNING = "#1c1c1c", "#666666", "#ffffff", "#a04000"
# Lines of text with the place of each: left, top, size, colour.
Text = list[tuple[int, int, int, str, str]]


def render(preview: Preview) -> str:
    """The page."""
    return pages.render("preview.html", {"preview": preview, "address": _address, "side": _shown_side})


def _address(picture: Picture) -> str:
    """`data:` address: PNG of small pictures, JPEG of others."""
    image = Image.fromarray(picture.pixels)
    if max(image.size) <= EXACT:
        return pages.address(image, "PNG")
    image.thumbnail((2 * MOST, 2 * MOST))
    return pages.address(image, "JPEG", quality=90)


def _shown_side(picture: Picture) -> int:
    """Width at which a picture is shown, in pixels."""
    width = picture.pixels.shape[1]
    return min(MOST, width * -(-LEAST // width))


def sheet(preview: Preview) -> Image.Image:
    """The picture."""
    side = max(_shown_side(picture) for section in preview.sections for row in section.rows for picture in row.pictures)
    cell = max(side, 150)
    columns = max(len(row.pictures) for section in preview.sections for row in section.rows)
    width = max(columns * (cell + GAP) - GAP, 600)
    texts: Text = []
    images: list[tuple[int, int, Image.Image]] = []
    top = MARGIN

    def write(text: str, size: int, colour: str, left: int = MARGIN, limit: int = width, most: int = 100) -> None:
        nonlocal top
        for line in wrapped(text, size, limit)[:most]:
            texts.append((left, top, size, colour, line))
            top += size + LINE - TEXT

    for name, value in preview.facts:
        write(f"{name}: {value}", TEXT, INK)
    for sentence in preview.warnings:
        write(sentence, TEXT, WARNING)
    for section in preview.sections:
        top += GAP
        write(section.title, HEADING, INK)
        write(section.note, TEXT, SOFT)
        for row in section.rows:
            top += GAP
            write(row.title, TEXT + 1, INK)
            start = bottom = top
            for column, picture in enumerate(row.pictures):
                left = MARGIN + column * (cell + GAP)
                image = _resized(picture)
                images.append((left, start, image))
                top = start + image.height + 4
                for line in picture.lines:
                    if top < start + image.height + MOST_LINES * LINE:
                        write(line, TEXT, SOFT, left, cell, 3)
                bottom = max(bottom, top)
            top = bottom
    top += GAP
    write("What reaches the network, by channel: least ... greatest, mean +- standard deviation", TEXT + 1, INK)
    for name, spread in preview.spreads.items():
        figures = ["{} ... {}, {} +- {}".format(*channel) for channel in spread.figures()]
        write(f"{name}: {'; '.join(figures)}", TEXT, INK)
    canvas = Image.new("RGB", (width + 2 * MARGIN, top + MARGIN), PAPER)
    for left, upper, image in images:
        canvas.paste(image, (left, upper))
    draw = ImageDraw.Draw(canvas)
    for left, upper, size, colour, line in texts:
        draw.text((left, upper), line, colour, font=ImageFont.load_default(size))
    return canvas


def _resized(picture: Picture) -> Image.Image:
    image, width = Image.fromarray(picture.pixels), _shown_side(picture)
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.NEAREST if width >= image.width else Image.Resampling.BOX)


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of at most this many pixels; words that are longer are cut."""
    font, lines = ImageFont.load_default(size), [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines
