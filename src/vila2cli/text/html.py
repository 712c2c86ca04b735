"""Pages of one HTML file, in which nothing runs but the page's own script.

Text from anywhere reaches the templates as plain strings, which Jinja2 escapes; only Markup, made of the
package's own files and drawings, is HTML.
"""

import base64
import hashlib
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vila2cli.text.printable import printable


def harmless(value: object) -> str:
    """What a template prints: markup unchanged, all else without characters that disturb or cannot be saved."""
    return value if isinstance(value, Markup) else printable(str(value), keep_newlines=True)


def render_html(package: str, template: str, assets: Mapping[str, str], **values: object) -> str:
    """A template of `package` with its values, and of each asset by name the text and NAME_sha256.

    The digests are for a content security policy that allows these styles and scripts and no other.
    """
    loader = PackageLoader(package)
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name, file in assets.items():
        text = f"\n{loader.get_source(environment, file)[0]}"
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
        values |= {name: Markup(text), f"{name}_sha256": digest}
    return environment.get_template(template).render(values)
