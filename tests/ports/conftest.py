"""No Deferred may fail unheard in here."""

from unheard import no_unheard_failures as no_unheard_failures
