"""What a run shows at its end: tables of utility, distance and inversion, pictures, and the audit's certificate."""

from .attack_stories import AttackStory, story_of
from .audit import audit_release, print_verdict, require_audit, shareable_config
from .audit_material import AuditMaterial
from .audit_tests import TESTS, AuditTargets
from .cards import datasheet_text, model_card_text
from .certificate import with_verdicts, write_certificate
from .certificate_words import certificate_words
from .closest_pairs import closest_pairs
from .figures import write_sample_grids, write_walk_figure
from .html import certificate_html
from .inversion_report import inversion_gap, write_inversion_report
from .release_audit import audit_of_release
from .render import fill_template
from .signature import load_signing_key, verify_signature
from .utility_table import UtilityTable, utility_table_text
from .verdicts import missing_tests, overall_verdict, verdict_of
