#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible module: pin the image of a service in a Compose project."""

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_image
short_description: Pin the image of a service in a Compose project
version_added: 0.1.0
author:
  - The capsule.opstage contributors (@capsule-opstage)
description:
  - Changes the tag of a service's image where it is written, and nothing but the tag's characters. Comments, order,
    quoting, line ends, owner and mode of the file stay.
  - The tag may stand in a Compose file, in the default of a variable there as in C(${OPSTAGE_TAG:-0.2.0}), or in the
    value of a variable in an environment file.
  - Before anything is written, C(docker compose config) must say the same of the edited project as of the present
    one, but for the image of this one service. An edit that would change anything else, or that cannot be made with
    certainty, is refused.
  - Nothing is started, and nothing is pulled but for O(image_id).
options:
  project_dir:
    description:
      - The folder of the Compose project. Relative paths in the other options start there.
    type: path
    required: true
  files:
    description:
      - The Compose files, in the order in which Compose merges them.
      - By default those that Compose itself finds, E(COMPOSE_FILE) included.
    type: list
    elements: path
  env_files:
    description:
      - The environment files for the interpolation, in order.
      - By default the one that Compose itself finds, C(.env), or those in E(COMPOSE_ENV_FILES).
    type: list
    elements: path
  project_name:
    description:
      - The name of the project. By default the one that Compose itself gives it.
    type: str
  service:
    description:
      - The service whose image is pinned.
    type: str
    required: true
  tag:
    description:
      - The tag to pin. Where the image has no tag yet, it is put in.
    type: str
    required: true
  digest:
    description:
      - The digest to pin, written behind the tag as in C(repository:0.3.0@sha256:…). The engine then runs that image
        only, wherever the tag moves.
      - Without it, a digest behind the present tag is removed, because the engine would go on running the old image
        for it.
    type: str
  image_id:
    description:
      - The id of the image that the tag must name on this host. Where it names another, since tags move, it is given
        back.
      - An image that is not on the host any more is pulled by O(image_digest).
      - Needs the Docker Engine. Nothing is done with it where O(digest) says which image runs.
    type: str
  image_digest:
    description: The digest of that image in its repository, if one is known.
    type: str
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details:
      - The edit is proven with Compose in check mode too, on a temporary copy beside the file.
  diff_mode:
    support: full
    details:
      - Only the statement that differs is shown. The files hold secrets.
  platform:
    platforms: linux
requirements:
  - Docker Compose 2.20 or newer, as C(docker compose); the Docker Engine need not run, but for O(image_id)
notes:
  - Refused with a message that names file and line are a tag that is put together from several variables, an image
    that comes from an anchor, an alias, a merge key or C(extends), a variable that is set in the environment of the
    process or made of other variables, and a variable on which something else depends.
  - A variable in an environment file that is also an C(env_file) of services changes in their environment too.
"""

EXAMPLES = r"""
- name: Pin a version
  capsule.opstage.compose_image:
    project_dir: /srv/opstage
    service: opstage
    tag: 0.3.0

- name: Pin a version to the image that was tested, and show the line that changes
  capsule.opstage.compose_image:
    project_dir: /srv/opstage
    files:
      - compose.yml
      - production.yml
    service: opstage
    tag: 0.3.0
    digest: sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b
  diff: true
"""

RETURN = r"""
image:
  description: The reference that is pinned.
  returned: success
  type: str
  sample: ghcr.io/xtrape-com/xtrape-capsule-ce:0.3.0
previous_image:
  description: The reference that was there, with its variables resolved.
  returned: success
  type: str
  sample: ghcr.io/xtrape-com/xtrape-capsule-ce:0.2.0
tag:
  description: The tag that is pinned.
  returned: success
  type: str
  sample: 0.3.0
previous_tag:
  description: The tag that was there, or null where there was none.
  returned: success
  type: str
  sample: 0.2.0
previous_digest:
  description: The digest that was there, or null where there was none.
  returned: success
  type: str
  sample: sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b
file:
  description: The file in which the tag stands.
  returned: success
  type: str
  sample: /srv/opstage/.env
line:
  description: The number of the line in which it stands, from 1.
  returned: success
  type: int
  sample: 3
retagged:
  description: Whether the tag named another image on this host, and was given back.
  returned: success
  type: bool
variable:
  description: The variable whose value or default the tag is in there, or null where it is written in the image itself.
  returned: success
  type: str
  sample: OPSTAGE_TAG
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.capsule.opstage.plugins.module_utils.compose_image import (
    ComposeImageError,
    ComposeProject,
    PinResult,
    pin_image,
)
from ansible_collections.capsule.opstage.plugins.module_utils.docker_command import DockerError, give_tag_back


def describe(result: PinResult) -> dict[str, object]:
    """Return the module's result, with the diff of the one statement that differs."""
    values = asdict(result)
    header = f"{result.file}:{result.line}"
    before, after = f"{values.pop('before')}\n", f"{values.pop('after')}\n"
    return {**values, "diff": {"before_header": header, "after_header": header, "before": before, "after": after}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project_dir": {"type": "path", "required": True},
            "files": {"type": "list", "elements": "path"},
            "env_files": {"type": "list", "elements": "path"},
            "project_name": {"type": "str"},
            "service": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
            "digest": {"type": "str"},
            "image_id": {"type": "str"},
            "image_digest": {"type": "str"},
        },
        supports_check_mode=True,
    )
    options = module.params
    project = ComposeProject(options["project_dir"], options["files"], options["env_files"], options["project_name"])
    try:
        result = pin_image(project, options["service"], options["tag"], options["digest"], module.check_mode)
        retagged = False
        if options["image_id"] is not None and options["digest"] is None:
            retagged = give_tag_back(
                result.image, options["image_id"], options["image_digest"], check=module.check_mode
            )
    except (ComposeImageError, DockerError) as error:
        module.fail_json(msg=str(error))
    described = describe(result)
    module.exit_json(**{**described, "changed": described["changed"] or retagged, "retagged": retagged})


if __name__ == "__main__":
    main()
